package spec

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

var (
	errNoKey  = errors.New("is no OpenPGP public key: use what gpg --export, with or without --armor, writes")
	errSecret = errors.New("has a secret key in it: use the public one alone, which gpg --export writes")
)

// Packet tags: RFC 9580, 5.
const (
	tagSecretKey    = 5
	tagPublicKey    = 6
	tagSecretSubkey = 7
)

// publicKeys is data, OpenPGP public keys in armored or binary form, in binary form. It
// looks at the packets' kinds only: what algorithms are good enough is apt's to say.
func publicKeys(data []byte) ([]byte, error) {
	binary := data
	if data[0]&0x80 == 0 { // RFC 9580, 4.2: set in every packet's first byte
		var err error
		if binary, err = dearmor(data); err != nil {
			return nil, err
		}
	}
	packets := packet.NewOpaqueReader(bytes.NewReader(binary))
	for first := true; ; first = false {
		p, err := packets.Next()
		switch {
		case err == io.EOF && !first:
			return binary, nil
		case err != nil:
			return nil, errNoKey
		case p.Tag == tagSecretKey, p.Tag == tagSecretSubkey:
			return nil, errSecret
		case first && p.Tag != tagPublicKey:
			return nil, errNoKey
		}
	}
}

// dearmor decodes all blocks in data: an archive that changes its key has two for a while.
func dearmor(data []byte) (binary []byte, err error) {
	// Large enough for armor.Decode to use it as it is, and so to leave the next block in it.
	r := bufio.NewReader(bytes.NewReader(data))
	for {
		block, err := armor.Decode(r)
		switch {
		case err == io.EOF && binary != nil:
			return binary, nil
		case err != nil:
			return nil, errNoKey
		case block.Type == "PGP PRIVATE KEY BLOCK":
			return nil, errSecret
		case block.Type != "PGP PUBLIC KEY BLOCK":
			return nil, errNoKey
		}
		content, err := io.ReadAll(block.Body)
		if err != nil {
			return nil, errNoKey
		}
		binary = append(binary, content...)
	}
}
