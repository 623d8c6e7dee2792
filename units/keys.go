package units

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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
}

func keysOf(s spec.Spec) Keys {
	dir := filepath.Join(ConfigDir, s.Name)
	return Keys{
		HostKey:        filepath.Join(dir, "ssh_host_ed25519_key"),
		Runner:         filepath.Join(dir, "runner_ed25519"),
		AuthorizedKeys: filepath.Join(dir, "authorized_keys"),
		KnownHosts:     filepath.Join(dir, "known_hosts"),
	}
}

// ensureKeys makes what is absent and leaves the rest as it is. It returns the paths of
// the files it wrote.
func ensureKeys(s spec.Spec) (Keys, []string, error) {
	keys := keysOf(s)
	if err := os.MkdirAll(filepath.Dir(keys.HostKey), 0o755); err != nil {
		return keys, nil, err
	}
	var wrote []string
	hostKey, made, err := ensureKey(keys.HostKey, s.Name)
	if err != nil {
		return keys, nil, err
	}
	wrote = append(wrote, made...)
	runner, made, err := ensureKey(keys.Runner, s.Name+" runner")
	if err != nil {
		return keys, nil, err
	}
	wrote = append(wrote, made...)

	if _, err := os.Stat(keys.AuthorizedKeys); errors.Is(err, fs.ErrNotExist) {
		if err := atomicfile.Write(keys.AuthorizedKeys, ssh.MarshalAuthorizedKey(runner), 0o644); err != nil {
			return keys, nil, err
		}
		wrote = append(wrote, keys.AuthorizedKeys)
	} else if err != nil {
		return keys, nil, err
	}
	line := []byte(knownhosts.Line([]string{s.SSH.Listen.String()}, hostKey) + "\n")
	changed, err := writeIfChanged(keys.KnownHosts, line, 0o644)
	if err != nil {
		return keys, nil, err
	}
	if changed {
		wrote = append(wrote, keys.KnownHosts)
	}
	return keys, wrote, nil
}

// ensureKey reads the public half of the ed25519 key in path, or makes the key.
func ensureKey(path, comment string) (public ssh.PublicKey, wrote []string, err error) {
	text, err := os.ReadFile(path)
	if err == nil {
		signer, err := ssh.ParsePrivateKey(text)
		if err != nil {
			return nil, nil, fmt.Errorf("%s is no private key without a passphrase: move it away to get a new one: %w", path, err)
		}
		return signer.PublicKey(), nil, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, nil, err
	}
	if public, err = ssh.NewPublicKey(private.Public()); err != nil {
		return nil, nil, err
	}
	if err := atomicfile.Write(path+".pub", ssh.MarshalAuthorizedKey(public), 0o644); err != nil {
		return nil, nil, err
	}
	if err := atomicfile.Write(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, nil, err
	}
	return public, []string{path, path + ".pub"}, nil
}
