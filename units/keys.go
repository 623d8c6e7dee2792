package units

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/spec"
)

// Keys are the files of one builder's keys. They belong to the host and are never part
// of an image, which is public.
type Keys struct {
	HostKey        string // sshd's only key, ed25519: clients prefer other types where they are offered
	Runner         string // private key of the client, GitLab Runner's identity_file
	AuthorizedKeys string // has Runner's public key; an administrator may add others
	KnownHosts     string // has HostKey's public key

	// Certificate is HostKey's, of an authority that clients know, if there is one: CERTIFICATES in
	// ssh-keygen(1).
	Certificate string
	Drained     string // is there while the host wants no new connections
}

// KeysOf are those of the builder of a name, whether they are there or not.
func KeysOf(name string) Keys {
	dir := filepath.Join(ConfigDir, name)
	return Keys{
		HostKey:        filepath.Join(dir, "ssh_host_ed25519_key"),
		Runner:         filepath.Join(dir, "runner_ed25519"),
		AuthorizedKeys: filepath.Join(dir, "authorized_keys"),
		KnownHosts:     filepath.Join(dir, "known_hosts"),
		Certificate:    filepath.Join(dir, "ssh_host_ed25519_key-cert.pub"),
		Drained:        filepath.Join(dir, "drained"),
	}
}

// ensureKeys makes what is absent and leaves the rest as it is. It returns the text of
// known_hosts, which belongs to the address that is about to be switched to, and the paths
// of the files it wrote.
func ensureKeys(s spec.Spec) (keys Keys, knownHosts []byte, wrote []string, err error) {
	keys = KeysOf(s.Name)
	if err := os.MkdirAll(filepath.Dir(keys.HostKey), 0o755); err != nil {
		return keys, nil, nil, err
	}
	hostKey, wroteHost, err := EnsureKey(keys.HostKey, s.Name)
	if err != nil {
		return keys, nil, nil, err
	}
	runner, wroteRunner, err := EnsureKey(keys.Runner, s.Name+" runner")
	if err != nil {
		return keys, nil, nil, err
	}
	wrote = append(wroteHost, wroteRunner...)

	authorized, err := os.ReadFile(keys.AuthorizedKeys)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return keys, nil, nil, err
	}
	if line := ssh.MarshalAuthorizedKey(runner.PublicKey()); !bytes.Contains(authorized, bytes.TrimSpace(line)) {
		if len(authorized) > 0 && !bytes.HasSuffix(authorized, []byte("\n")) {
			authorized = append(authorized, '\n')
		}
		if err := atomicfile.Write(keys.AuthorizedKeys, append(authorized, line...), 0o644); err != nil {
			return keys, nil, nil, err
		}
		wrote = append(wrote, keys.AuthorizedKeys)
	}
	certificate, err := ReadCertificate(keys.Certificate)
	if errors.Is(err, fs.ErrNotExist) {
		certificate, err = nil, nil
	}
	return keys, KnownHosts(s.SSH.Local(), hostKey.PublicKey(), certificate), wrote, err
}

// KnownHosts are the lines of known_hosts by which a client on the host itself knows it, by its key
// and by the authority of its certificate, if it has one. Of such a host Go's client, and GitLab
// Runner with it, takes nothing but the certificate: "no authorities for hostname".
func KnownHosts(local netip.AddrPort, key ssh.PublicKey, certificate *ssh.Certificate) []byte {
	lines := []byte(knownhosts.Line([]string{local.String()}, key) + "\n")
	if certificate != nil {
		lines = append(lines, AuthorityLine([]string{local.String()}, certificate.SignatureKey)...)
	}
	return lines
}

// AuthorityLine is the line of known_hosts by which hosts at some addresses, HOST:PORT, are known:
// SSH_KNOWN_HOSTS FILE FORMAT in sshd(8).
func AuthorityLine(addresses []string, key ssh.PublicKey) []byte {
	var normal []string
	for _, address := range addresses {
		normal = append(normal, knownhosts.Normalize(address))
	}
	return fmt.Appendf(nil, "@cert-authority %s %s", strings.Join(normal, ","), ssh.MarshalAuthorizedKey(key))
}

// renewal is how long before its end a certificate should be renewed.
const renewal = 30 * 24 * time.Hour

// JudgeCertificate says what ails a host's certificate, as in "ends on 2027-01-02", and whether
// clients refuse it by now; an empty string if nothing does.
func JudgeCertificate(c *ssh.Certificate, key ssh.PublicKey, now time.Time) (fault string, refused bool) {
	day := func(t uint64) string { return time.Unix(int64(t), 0).UTC().Format(time.DateOnly) }
	endless := c.ValidBefore == ssh.CertTimeInfinity
	switch {
	case key != nil && !bytes.Equal(c.Key.Marshal(), key.Marshal()):
		return "is of another key than the host's", true
	case uint64(now.Unix()) < c.ValidAfter:
		return "begins on " + day(c.ValidAfter) + " only, and it is " + now.UTC().Format(time.DateTime) + " here", true
	case !endless && uint64(now.Unix()) >= c.ValidBefore:
		return "has ended on " + day(c.ValidBefore), true
	case !endless && uint64(now.Add(renewal).Unix()) >= c.ValidBefore:
		return "ends on " + day(c.ValidBefore), false
	}
	return "", false
}

// ReadCertificate reads the certificate of a host's key.
func ReadCertificate(path string) (*ssh.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if c, ok := key.(*ssh.Certificate); ok && c.CertType == ssh.HostCert {
		return c, nil
	}
	return nil, errors.Join(fmt.Errorf("%s is no host certificate: sign the host's key anew, or remove it", path), err)
}

// EnsureKey reads the ed25519 key in path, or makes it. It returns the paths of the files it wrote;
// the public half is always beside the key.
func EnsureKey(path, comment string) (key ssh.Signer, wrote []string, err error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		block, err := ssh.MarshalPrivateKey(private, comment)
		if err != nil {
			return nil, nil, err
		}
		text = pem.EncodeToMemory(block)
		if err := atomicfile.Write(path, text, 0o600); err != nil {
			return nil, nil, err
		}
		wrote = append(wrote, path)
	case err != nil:
		return nil, nil, err
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s is no private key without a passphrase: move it away to get a new one: %w", path, err)
	}
	changed, err := writeIfChanged(path+".pub", ssh.MarshalAuthorizedKey(signer.PublicKey()), 0o644)
	if changed {
		wrote = append(wrote, path+".pub")
	}
	return signer, wrote, err
}
