package openpgp

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// Keyring holds the public keys that somebody trusts.
type Keyring struct{ keys pgp.EntityList }

// ReadKeyring reads a keyring from a file, such as /etc/systemd/import-pubring.gpg.
func ReadKeyring(path string) (Keyring, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Keyring{}, fmt.Errorf("no keyring: %w: put there the publisher's import-pubring.gpg, after comparing its fingerprint", err)
	}
	if err != nil {
		return Keyring{}, err
	}
	k, err := ParseKeyring(data)
	if err != nil {
		return Keyring{}, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// ParseKeyring reads one or several public keys, binary or armored. Those of a kind that
// nobody here knows are left out, as long as there is another one.
func ParseKeyring(data []byte) (Keyring, error) {
	keys, err := parse(data)
	if err != nil {
		return Keyring{}, fmt.Errorf("not a keyring: %w: export it with gpg --export", err)
	}
	return Keyring{keys}, nil
}

// VerifyFile is [Keyring.Verify] for the file at path and its signature, path.gpg. It returns
// the text too: what was verified, whatever happens to the file.
func (k Keyring) VerifyFile(path string) (text []byte, fingerprint string, err error) {
	text, err = os.ReadFile(path)
	if err != nil {
		return nil, "", err
	}
	sig, err := os.ReadFile(path + ".gpg")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("%s: %w: there is no %[1]s.gpg: ask the publisher for it", path, ErrNoSignature)
	}
	if err != nil {
		return nil, "", err
	}
	if fingerprint, err = k.Verify(text, sig); err != nil {
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	return text, fingerprint, nil
}

// Verify checks a detached signature of text, binary or armored, and returns the
// fingerprint of the key that made it: 40 hex digits in capitals. That key must be
// in the keyring and fit to sign now. (gpg only warns of an expired one.) Of several
// signatures one has to be good. Errors wrap one of this package's.
func (k Keyring) Verify(text, signature []byte) (fingerprint string, err error) {
	sigs, err := signatures(signature)
	if err != nil {
		return "", fmt.Errorf("%w: the signature can't be read: %w: fetch it again", ErrNoSignature, err)
	}
	if len(sigs) == 0 {
		return "", fmt.Errorf("%w: there is no signature in the signature file: fetch it again", ErrNoSignature)
	}
	var failures []error
	for _, sig := range sigs {
		fingerprint, err := k.verify(text, sig, time.Now())
		if err == nil {
			return fingerprint, nil
		}
		failures = append(failures, err)
	}
	return "", errors.Join(failures...)
}

func (k Keyring) verify(text []byte, sig *packet.Signature, now time.Time) (string, error) {
	id := issuer(sig)
	known := k.keys.EntitiesById(id)
	if len(known) == 0 {
		return "", fmt.Errorf("%w: by %s, while the keyring has %s: ask the publisher which is right", ErrWrongKey, keyID(id), keyIDs(k.keys))
	}
	// Not the library's VerifyDetachedSignature: it takes expired keys, and refuses a
	// signature from before its key was extended, which gpg doesn't.
	key, err := signingKey(known[0], id, now)
	if err != nil {
		return "", err
	}
	switch sig.Hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return "", fmt.Errorf("%w as it should be: with %v: ask the publisher for a signature with SHA-512", ErrNoSignature, sig.Hash)
	}
	if sig.SigType != packet.SigTypeBinary {
		return "", fmt.Errorf("%w as it should be: type %#x: ask the publisher for a signature made by gpg --detach-sign", ErrNoSignature, sig.SigType)
	}
	for _, notation := range sig.Notations {
		if notation.IsCritical {
			return "", fmt.Errorf("%w as it should be: with the unknown condition %q: ask the publisher for one without", ErrNoSignature, notation.Name)
		}
	}
	h, err := sig.PrepareVerify()
	if err != nil {
		return "", err
	}
	h.Write(text)
	if err := key.PublicKey.VerifySignature(h, sig); err != nil {
		return "", fmt.Errorf("%w by %s: fetch it and its signature again", ErrAltered, keyID(id))
	}
	if sig.CreationTime.Before(key.PublicKey.CreationTime) {
		return "", fmt.Errorf("%w as it should be: at %s, before the key was made: ask the publisher to sign again", ErrNoSignature, utc(sig.CreationTime))
	}
	if life := sig.SigLifetimeSecs; life != nil && *life > 0 && now.After(sig.CreationTime.Add(time.Duration(*life)*time.Second)) {
		return "", fmt.Errorf("%w any more: the signature was for a limited time: ask the publisher to sign again", ErrNoSignature)
	}
	return fingerprint(known[0]), nil
}

// signatures reads all signature packets.
func signatures(data []byte) (all []*packet.Signature, err error) {
	var r io.Reader = bytes.NewReader(data)
	if bytes.Contains(data, []byte(armored)) {
		block, err := armor.Decode(r)
		if err != nil {
			return nil, err
		}
		r = block.Body
	}
	for packets := packet.NewReader(r); ; {
		p, err := packets.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if sig, ok := p.(*packet.Signature); ok {
			all = append(all, sig)
		}
	}
}

// issuer is the id of the key that claims to have signed, which may be the subkey's.
func issuer(sig *packet.Signature) uint64 {
	if sig.IssuerKeyId != nil {
		return *sig.IssuerKeyId
	}
	if n := len(sig.IssuerFingerprint); n == 20 {
		return binary.BigEndian.Uint64(sig.IssuerFingerprint[n-8:])
	}
	return 0
}
