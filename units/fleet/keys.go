package fleet

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"ephemeral-builder/image/command"
	"ephemeral-builder/units"
)

// Files of a fleet's folder that hold keys. The private ones are made once, and kept.
const (
	authorityFile = "ca_ed25519"     // signs the hosts' keys: who has it can pass for any host
	runnerFile    = "runner_ed25519" // of the runners: who has it can run jobs on all hosts
)

// A host's certificate is renewed in the second half of its time.
const validity = 2 * 365 * 24 * time.Hour

// ensureKey reads a key of the fleet's folder, or makes it. Nobody else may read it.
func ensureKey(path, comment string) (ssh.Signer, error) {
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is readable by others, mode %04o: chmod 600 it, or make new keys, if somebody may have read it", path, info.Mode().Perm())
	}
	key, _, err := units.EnsureKey(path, comment)
	return key, err
}

// readKey reads a key that must be there: who made another here would take the hosts from all
// runners that know the first.
func readKey(path string) (ssh.Signer, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w: name the folder with the fleet's keys with -out, or make them, once for all who administer it, with: %s", err, command.Self("fleet"))
	}
	return ensureKey(path, "")
}

// principals are what clients call a host: by itself, behind the balancer, and on the host itself.
func (f Fleet) principals(h Host, local netip.AddrPort) []string {
	names := []string{f.Balancer.Called(), h.Address.Addr().String(), h.Name}
	if here := local.Addr().String(); !slices.Contains(names, here) {
		names = append(names, here)
	}
	return names
}

// certify signs a host's key: PROTOCOL.certkeys of OpenSSH.
func (f Fleet) certify(authority ssh.Signer, h Host, got facts, now time.Time) (*ssh.Certificate, error) {
	certificate := &ssh.Certificate{
		Key: got.hostKey, CertType: ssh.HostCert, KeyId: f.Name + " on " + h.Name,
		ValidPrincipals: f.principals(h, got.local()),
		ValidAfter:      uint64(now.Add(-time.Hour).Unix()), // clocks differ
		ValidBefore:     uint64(now.Add(validity).Unix()),
	}
	return certificate, certificate.SignCert(rand.Reader, authority)
}

// current tells whether a host's certificate will do.
func (f Fleet) current(authority ssh.Signer, h Host, got facts, now time.Time) bool {
	c := got.certificate
	if c == nil {
		return false
	}
	fault, _ := units.JudgeCertificate(c, got.hostKey, now)
	return fault == "" && bytes.Equal(c.SignatureKey.Marshal(), authority.PublicKey().Marshal()) &&
		slices.Equal(c.ValidPrincipals, f.principals(h, got.local())) &&
		time.Unix(int64(c.ValidBefore), 0).After(now.Add(validity/2))
}

// takeIn is what a host does with its certificate, or an empty line, and the runners' public key, a
// line each, and with what it is known by there. The key may be there with options already. Warm
// containers have read what was there before.
const takeIn = `set -eu
umask 022
cd %s
read -r certificate
read -r runner
if [ -n "$certificate" ]; then
	printf '%%s\n' "$certificate" >%s.new
	mv %[2]s.new %[2]s
else
	rm -f %[2]s
fi
cat >known_hosts.new
mv known_hosts.new known_hosts
grep -qF "$runner" authorized_keys || {
	sed '$a\' authorized_keys >authorized_keys.new
	printf '%%s\n' "$runner" >>authorized_keys.new
	mv authorized_keys.new authorized_keys
}
[ ! -e %[4]s ] || systemctl try-restart %[3]s-warm.service`

// Certify gives each host a certificate of the fleet's authority, or with own none, and lets the
// fleet's runners in. It says what it did, a line for each host, also before an error.
func (f Fleet) Certify(ctx context.Context, dir string, own bool) (done []string, err error) {
	authority, err := readKey(filepath.Join(dir, authorityFile))
	if err != nil {
		return nil, err
	}
	runner, err := readKey(filepath.Join(dir, runnerFile))
	if err != nil {
		return nil, err
	}
	var errs []error
	for i, got := range f.ask(ctx) {
		h := f.Hosts[i]
		if got.err != nil {
			errs = append(errs, got.err)
			continue
		}
		certificate, word := got.certificate, "unchanged"
		switch {
		case own:
			certificate, word = nil, "has its own key"
		case f.current(authority, h, got, time.Now()):
		case certificate != nil && !bytes.Equal(certificate.SignatureKey.Marshal(), authority.PublicKey().Marshal()):
			errs = append(errs, fmt.Errorf("%s has a certificate of another authority than %s, by which runners may know it: name the folder with that one, or remove %s there",
				h.Name, filepath.Join(dir, authorityFile), units.KeysOf(f.Name).Certificate))
			continue
		default:
			if certificate, err = f.certify(authority, h, got, time.Now()); err != nil {
				return done, err
			}
			word = "signed"
		}
		if err := f.handIn(ctx, h, got, certificate, runner.PublicKey()); err != nil {
			errs = append(errs, err)
			continue
		}
		if certificate != nil {
			word += fmt.Sprintf(", the key of %s until %s", h.Name, time.Unix(int64(certificate.ValidBefore), 0).UTC().Format(time.DateOnly))
		}
		done = append(done, h.Name+": "+word)
	}
	return done, errors.Join(errs...)
}

// handIn gives a host its certificate, none if nil, and the runners' key.
func (f Fleet) handIn(ctx context.Context, h Host, got facts, certificate *ssh.Certificate, runner ssh.PublicKey) error {
	line := []byte("\n")
	if certificate != nil {
		line = ssh.MarshalAuthorizedKey(certificate)
	}
	path := units.KeysOf(f.Name).Certificate
	lines := slices.Concat(line, ssh.MarshalAuthorizedKey(runner), units.KnownHosts(got.local(), got.hostKey, certificate))
	_, err := h.run(ctx, fmt.Sprintf(takeIn, filepath.Dir(path), filepath.Base(path), f.Name, filepath.Join(units.UnitDir, f.Name+"-warm.service")), lines)
	return err
}
