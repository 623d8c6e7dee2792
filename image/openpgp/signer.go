package openpgp

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// Signer is a private key that can sign now.
type Signer struct {
	entity *pgp.Entity
	key    pgp.Key
}

// LoadSigner reads the one private key in key, which is the key itself as `gpg --armor
// --export-secret-keys FINGERPRINT` prints it, or the path of a file with it, armored or
// binary. A pipeline's variable may hold either. An empty passphrase means none.
//
// It is an error if the key is public, expired, revoked, protected by another passphrase,
// or one that gpg 2.2 can't read (RSA, ECDSA and EdDSA of version 4 it can), and if there
// are several. An exported signing subkey without its primary key is fine. Nothing of the
// key is in an error, nor in what fmt prints of a Signer. Errors wrap [ErrExpired] or
// [ErrRevoked], or are those of reading the file.
func LoadSigner(key, passphrase string) (*Signer, error) {
	data, from := []byte(key), "the signing key"
	if !strings.Contains(key, armored) {
		var err error
		if data, err = os.ReadFile(key); err != nil {
			// Keys are given without their first line too, or as one long line of base64.
			if key == "" || len(key) > 255 || strings.ContainsAny(key, "\r\n") {
				return nil, errors.New("the signing key is neither a file nor an armored key: give all of what gpg --armor --export-secret-keys prints")
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("no signing key: %w: export it with gpg --armor --export-secret-keys", err)
			}
			return nil, fmt.Errorf("signing key: %w", err)
		}
		from = key
	}
	keys, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s can't be read: %w: export it with gpg --armor --export-secret-keys, and keep its line breaks", from, err)
	}
	if len(keys) > 1 {
		var all []string
		for _, e := range keys {
			all = append(all, fingerprint(e))
		}
		return nil, fmt.Errorf("%s holds several keys (%s): export one with gpg --armor --export-secret-keys FINGERPRINT", from, strings.Join(all, ", "))
	}
	s, err := newSigner(keys[0], passphrase)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return s, nil
}

func newSigner(e *pgp.Entity, passphrase string) (*Signer, error) {
	if e.PrivateKey == nil {
		return nil, fmt.Errorf("%s is only the public key: export the private one with gpg --armor --export-secret-keys", fingerprint(e))
	}
	key, err := signingKey(e, 0, time.Now())
	if err != nil {
		return nil, err
	}
	for _, public := range []*packet.PublicKey{e.PrimaryKey, key.PublicKey} {
		switch public.PubKeyAlgo {
		case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly, packet.PubKeyAlgoECDSA, packet.PubKeyAlgoEdDSA:
			if public.Version == 4 {
				continue
			}
		}
		return nil, fmt.Errorf("gpg 2.2 of Debian 12 can't read key %s (version %d, algorithm %d): make one with gpg --quick-generate-key NAME ed25519 sign",
			keyID(public.KeyId), public.Version, public.PubKeyAlgo)
	}
	private := key.PrivateKey
	switch {
	case private == nil || private.Dummy():
		return nil, fmt.Errorf("the private part of %s, which signs, is not in it: export it from where it is kept", keyID(key.PublicKey.KeyId))
	case private.Encrypted && passphrase == "":
		return nil, errors.New("it is protected by a passphrase: set EPHEMERAL_BUILDER_SIGNING_PASSPHRASE")
	case private.Encrypted:
		if err := private.Decrypt([]byte(passphrase)); err != nil {
			return nil, errors.New("the passphrase is wrong: correct EPHEMERAL_BUILDER_SIGNING_PASSPHRASE")
		}
	}
	return &Signer{entity: e, key: key}, nil
}

// Sign returns a detached signature of text, made at a time: now or, for an RSA or EdDSA key
// to give the same bytes again, SOURCE_DATE_EPOCH. The future is set to now, and what is
// before the key was made or last extended is set to that time, as gpg takes a signature
// that is older than its key for a forged one.
func (s *Signer) Sign(text []byte, at time.Time) ([]byte, error) {
	if now := time.Now(); at.After(now) {
		at = now
	}
	for _, t := range []time.Time{s.key.PublicKey.CreationTime, s.key.SelfSignature.CreationTime, s.key.PrimarySelfSignature.CreationTime} {
		if at.Before(t) {
			at = t
		}
	}
	salted := false // by a notation, which would make each signature another
	config := &packet.Config{NonDeterministicSignaturesViaNotation: &salted}
	sig := &packet.Signature{
		Version: 4, SigType: packet.SigTypeBinary, PubKeyAlgo: s.key.PublicKey.PubKeyAlgo, Hash: crypto.SHA512,
		CreationTime: at, IssuerKeyId: &s.key.PublicKey.KeyId,
	}
	h, err := sig.PrepareSign(config)
	if err != nil {
		return nil, err
	}
	h.Write(text)
	if err := sig.Sign(h, s.key.PrivateKey, config); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := sig.Serialize(&out); err != nil {
		return nil, err
	}
	// Also notices a key that expired since it was loaded: compressing takes minutes.
	if _, err := (Keyring{pgp.EntityList{s.entity}}).Verify(text, out.Bytes()); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return out.Bytes(), nil
}

// Fingerprint is that of the primary key: 40 hex digits in capitals.
func (s *Signer) Fingerprint() string { return fingerprint(s.entity) }

// Keyring is the public key as a binary keyring, which systemd takes as
// /etc/systemd/import-pubring.gpg. It is the same bytes for the same key.
func (s *Signer) Keyring() ([]byte, error) {
	var out bytes.Buffer
	err := export(&out, s.entity)
	return out.Bytes(), err
}

// PublicKey is the public key in armor, as people and gpg --import read it.
func (s *Signer) PublicKey() ([]byte, error) {
	var out bytes.Buffer
	w, err := armor.Encode(&out, pgp.PublicKeyType, nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(export(w, s.entity), w.Close()); err != nil {
		return nil, err
	}
	return append(out.Bytes(), '\n'), nil
}

// Format keeps the private key out of what fmt prints, whatever the verb.
func (s *Signer) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "key "+s.Fingerprint()) }

func sortedIdentities(e *pgp.Entity) []*pgp.Identity {
	var all []*pgp.Identity
	for _, name := range slices.Sorted(maps.Keys(e.Identities)) {
		all = append(all, e.Identities[name])
	}
	return all
}
