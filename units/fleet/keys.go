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
	return c != nil && bytes.Equal(c.Key.Marshal(), got.hostKey.Marshal()) &&
		bytes.Equal(c.SignatureKey.Marshal(), authority.PublicKey().Marshal()) &&
		slices.Equal(c.ValidPrincipals, f.principals(h, got.local())) &&
		time.Unix(int64(c.ValidBefore), 0).After(now.Add(validity/2))
}

// handIn is what a host does with its certificate and the runners' public key, a line each, and with
// what it is known by there. The key may be there with options already. Warm containers have read what
// was there before.
const handIn = `set -eu
umask 022
cd %s
read -r certificate
read -r runner
printf '%%s\n' "$certificate" >%s.new
mv %[2]s.new %[2]s
cat >known_hosts.new
mv known_hosts.new known_hosts
grep -qF "$runner" authorized_keys || {
	sed '$a\' authorized_keys >authorized_keys.new
	printf '%%s\n' "$runner" >>authorized_keys.new
	mv authorized_keys.new authorized_keys
}
[ ! -e %[4]s ] || systemctl try-restart %[3]s-warm.service`

// Certify gives each host a certificate of the fleet's authority, and lets the fleet's runners in.
// It says what it did, a line for each host, also before an error.
func (f Fleet) Certify(ctx context.Context, dir string) (done []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	authority, err := ensureKey(filepath.Join(dir, authorityFile), f.Name+" hosts")
	if err != nil {
		return nil, err
	}
	runner, err := ensureKey(filepath.Join(dir, runnerFile), f.Name+" runners")
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
		certificate, err := got.certificate, error(nil)
		word := "unchanged"
		if !f.current(authority, h, got, time.Now()) {
			word = "signed"
			if certificate, err = f.certify(authority, h, got, time.Now()); err != nil {
				return done, err
			}
		}
		keys := units.KeysOf(f.Name)
		lines := slices.Concat(ssh.MarshalAuthorizedKey(certificate), ssh.MarshalAuthorizedKey(runner.PublicKey()), units.KnownHosts(got.local(), got.hostKey, certificate))
		if _, err := h.run(ctx, fmt.Sprintf(handIn, filepath.Dir(keys.Certificate), filepath.Base(keys.Certificate), f.Name, filepath.Join(units.UnitDir, f.Name+"-warm.service")), lines); err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, fmt.Sprintf("%s: %s, the key of %s until %s", h.Name, word, h.Name, time.Unix(int64(certificate.ValidBefore), 0).UTC().Format(time.DateOnly)))
	}
	return done, errors.Join(errs...)
}
