// Package openpgp signs SHA256SUMS and checks its signature, SHA256SUMS.gpg.
//
// Signatures are detached and binary, of version 4 (RFC 9580, section 5.2.3), over
// SHA-512: what gpg 2.2 and newer, gpgv and sqv read, and so systemd's importd and
// sysupdate, which run gpg with the keyring /etc/systemd/import-pubring.gpg.
package openpgp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// What errors of this package wrap.
var (
	ErrNoSignature = errors.New("not signed")
	ErrWrongKey    = errors.New("signed by another key")
	ErrAltered     = errors.New("altered after it was signed")
	ErrExpired     = errors.New("key has expired")
	ErrRevoked     = errors.New("key is revoked")
)

const armored = "-----BEGIN PGP "

// parse reads keys, public or private, binary or any number of armored blocks.
func parse(data []byte) (pgp.EntityList, error) {
	if !bytes.Contains(data, []byte(armored)) {
		return some(pgp.ReadKeyRing(bytes.NewReader(data)))
	}
	var all pgp.EntityList
	for r := bufio.NewReader(bytes.NewReader(data)); ; {
		block, err := armor.Decode(r)
		if err == io.EOF {
			return some(all, nil)
		}
		if err != nil {
			return nil, err
		}
		keys, err := some(pgp.ReadKeyRing(block.Body))
		if err != nil {
			return nil, err
		}
		all = append(all, keys...)
	}
}

func some(keys pgp.EntityList, err error) (pgp.EntityList, error) {
	if len(keys) == 0 && err == nil {
		err = errors.New("no OpenPGP key in it")
	}
	return keys, err
}

// signingKey returns the part of a key that may sign now, or says why there is none: the
// newest one, or the one with an id if that is not 0.
func signingKey(e *pgp.Entity, id uint64, now time.Time) (pgp.Key, error) {
	key, ok := e.SigningKeyById(now, id, nil)
	if ok {
		return key, nil
	}
	_, err := e.VerifyPrimaryKey(now, nil)
	for _, sub := range e.Subkeys {
		binding, bindingErr := sub.LatestValidBindingSignature(now, nil)
		if err == nil && bindingErr == nil && binding.FlagSign && (id == 0 || id == sub.PublicKey.KeyId) {
			_, err = sub.Verify(now, nil)
		}
	}
	name := "key " + fingerprint(e)
	switch {
	case e.PrimaryKey.CreationTime.After(now):
		return key, fmt.Errorf("%s was made in the future, at %s: set this machine's clock", name, utc(e.PrimaryKey.CreationTime))
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return key, fmt.Errorf("%s: %w: use the one that replaced it", name, ErrRevoked)
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return key, fmt.Errorf("%s: %w: extend it with gpg --quick-set-expire and export it again, or use the one that replaced it", name, ErrExpired)
	case err != nil:
		return key, fmt.Errorf("%s can't be used: %w", name, err)
	}
	return key, fmt.Errorf("%s may not sign: add a part that may with gpg --quick-add-key", name)
}

// fingerprint is that of the primary key, which people compare: 40 hex digits in capitals.
func fingerprint(e *pgp.Entity) string { return fmt.Sprintf("%X", e.PrimaryKey.Fingerprint) }

// keyIDs names keys with all their parts that may have signed, as gpg's long format does.
func keyIDs(keys pgp.EntityList) string {
	var ids []string
	for _, e := range keys {
		ids = append(ids, keyID(e.PrimaryKey.KeyId))
		for _, sub := range e.Subkeys {
			if sub.PublicKey.PubKeyAlgo.CanSign() {
				ids = append(ids, keyID(sub.PublicKey.KeyId))
			}
		}
	}
	return strings.Join(ids, ", ")
}

func keyID(id uint64) string { return fmt.Sprintf("%016X", id) }

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// export writes the public part of a key, always in the same order and without other
// people's signatures, unlike the library's Serialize, which follows a map.
func export(w io.Writer, e *pgp.Entity) error {
	write := func(p interface{ Serialize(io.Writer) error }, signatures ...[]*packet.VerifiableSignature) error {
		err := p.Serialize(w)
		for _, list := range signatures {
			for _, sig := range list {
				err = errors.Join(err, sig.Packet.Serialize(w))
			}
		}
		return err
	}
	err := write(e.PrimaryKey, e.Revocations, e.DirectSignatures)
	for _, id := range sortedIdentities(e) {
		err = errors.Join(err, write(id.UserId, id.Revocations, id.SelfCertifications))
	}
	for _, sub := range e.Subkeys {
		err = errors.Join(err, write(sub.PublicKey, sub.Revocations, sub.Bindings))
	}
	return err
}
