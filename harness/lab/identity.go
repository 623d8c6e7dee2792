package lab

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"ephemeral-builder/harness/sshclient"
)

const (
	rootKey    = "root_ed25519"
	hostKeyPub = "host_ed25519.pub"
	knownHosts = "known_hosts"
	// handedIn is what the lab sees as /run/lab.
	handedIn = "handin"
)

// secrets are the files of Config.Dir that are worth nothing once the lab has ended.
var secrets = []string{rootKey, hostKeyPub, knownHosts, handedIn}

// handIn makes the lab's keys, and puts what the lab needs of them beside the shared files.
func (l *Lab) handIn(share map[string]string) error {
	identity := l.path(handedIn, "identity")
	for _, dir := range []string{identity, l.path(handedIn, "share")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	host, err := newKey(filepath.Join(identity, "ssh_host_ed25519_key"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.path(hostKeyPub), host, 0o600); err != nil {
		return err
	}
	root, err := newKey(l.path(rootKey))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(identity, "authorized_keys"), root, 0o600); err != nil {
		return err
	}
	for name, file := range share {
		if !filepath.IsLocal(name) {
			return fmt.Errorf("shared file %q: its name leads out of the share", name)
		}
		if err := linkOrCopy(file, l.path(handedIn, "share", name)); err != nil {
			return fmt.Errorf("sharing %s: %w", file, err)
		}
	}
	return nil
}

// newKey writes a new private key to file in OpenSSH's format, and returns the public one
// as a line of authorized_keys.
func newKey(file string) (public []byte, err error) {
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "lab")
	if err != nil {
		return nil, err
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, err
	}
	return ssh.MarshalAuthorizedKey(key), os.WriteFile(file, pem.EncodeToMemory(block), 0o600)
}

func linkOrCopy(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	// The file itself: a hard link to a symlink would lead nowhere in the lab.
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// introduce writes down, once the ports are known, how to get into the lab.
func (l *Lab) introduce() error {
	line, err := os.ReadFile(l.path(hostKeyPub))
	if err != nil {
		return err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return err
	}
	known := knownhosts.Line([]string{l.desc.Sshd.String()}, key) + "\n"
	if err := os.WriteFile(l.path(knownHosts), []byte(known), 0o600); err != nil {
		return err
	}
	l.desc.Root = []string{"ssh", "-F", "none", "-i", l.path(rootKey), "-o", "IdentitiesOnly=yes",
		"-o", `UserKnownHostsFile="` + l.path(knownHosts) + `"`, "-o", "StrictHostKeyChecking=yes",
		"-o", "LogLevel=ERROR", "-p", strconv.Itoa(l.desc.Sshd.Port), "root@" + l.desc.Sshd.Host}
	return l.save()
}

// Dial logs in to the lab as root. No other host can answer, as the lab's key is its own.
// ctx bounds the handshake, not the connection.
func (l *Lab) Dial(ctx context.Context) (*sshclient.Conn, error) {
	private, err := os.ReadFile(l.path(rootKey))
	if err != nil {
		return nil, err
	}
	public, err := os.ReadFile(l.path(hostKeyPub))
	if err != nil {
		return nil, err
	}
	target := sshclient.Target{Addr: l.desc.Sshd.String(), User: "root"}
	if target.Identity, err = ssh.ParsePrivateKey(private); err != nil {
		return nil, err
	}
	if target.HostKey, _, _, _, err = ssh.ParseAuthorizedKey(public); err != nil {
		return nil, err
	}
	return sshclient.Dial(ctx, target)
}
