package fleet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/units"
	"ephemeral-builder/units/status"
)

// facts are what a host says of itself.
type facts struct {
	status.Builder
	hostKey     ssh.PublicKey
	certificate *ssh.Certificate // of the host key, if there is one
	err         error            // why there is nothing of the above
}

// local is where clients on the host itself connect to; invalid if the host does not listen.
func (got facts) local() netip.AddrPort {
	listen, err := netip.ParseAddrPort(got.Listen)
	if err != nil {
		return netip.AddrPort{}
	}
	return spec.SSH{Listen: listen}.Local()
}

// refused is the latest version after the one that serves that an update has found not to; empty if
// there is none.
func (got facts) refused() (version string, err error) {
	for _, image := range got.Images {
		latest, err := later(got.Version, image.Version)
		if err != nil {
			return "", err
		}
		if image.Refused && !image.Current && latest == image.Version {
			if version, err = later(version, image.Version); err != nil {
				return "", err
			}
		}
	}
	return version, nil
}

// run has a shell of root run a command on a host.
func (h Host) run(ctx context.Context, commandLine string, stdin []byte) ([]byte, error) {
	return run(ctx, h.Name, h.Destination(), commandLine, stdin)
}

// run goes by OpenSSH's client, which has the administrator's own keys, known hosts and ways in. It
// asks no questions, as several run at a time.
func run(ctx context.Context, name, destination, commandLine string, stdin []byte) ([]byte, error) {
	out, err := command.Output(ctx, command.Cmd{
		Args:  []string{"ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10", "-T", destination, commandLine},
		Stdin: bytes.NewReader(stdin),
	})
	if err == nil {
		return out, nil
	}
	var exit *exec.ExitError
	isSSH := errors.As(err, &exit) && exit.ExitCode() == 255 // and not of the command
	var failed *command.Error
	if errors.As(err, &failed) && failed.Tail != "" {
		err = errors.New(strings.TrimSpace(failed.Tail))
	}
	if isSSH {
		return out, fmt.Errorf("%s: %w: this has to work without a question: ssh %s true", name, err, destination)
	}
	return out, fmt.Errorf("%s: %w", name, err)
}

// ask asks all hosts at once, and returns their answers in the fleet's order.
func (f Fleet) ask(ctx context.Context) []facts {
	all := make([]facts, len(f.Hosts))
	var asking sync.WaitGroup
	for i, h := range f.Hosts {
		asking.Go(func() { all[i] = f.askOne(ctx, h) })
	}
	asking.Wait()
	return all
}

func (f Fleet) askOne(ctx context.Context, h Host) (got facts) {
	key := units.KeysOf(f.Name)
	out, err := h.run(ctx, fmt.Sprintf("ephemeral-builder status -name=%s -json && cat %s.pub && { cat %s 2>/dev/null || :; }", f.Name, key.HostKey, key.Certificate), nil)
	if err != nil {
		return facts{err: err}
	}
	var builders []status.Builder
	answer := bytes.NewReader(out)
	decoder := json.NewDecoder(answer)
	if err := decoder.Decode(&builders); err != nil || len(builders) != 1 {
		return facts{err: fmt.Errorf("%s: its answer is not that of ephemeral-builder status: is another version installed there? %.200q", h.Name, out)}
	}
	got.Builder = builders[0]
	rest := bufio.NewScanner(io.MultiReader(decoder.Buffered(), answer))
	for rest.Scan() {
		if rest.Text() == "" {
			continue
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey(rest.Bytes())
		if err != nil {
			return facts{err: fmt.Errorf("%s: its host key can't be read: %w", h.Name, err)}
		}
		if certificate, ok := key.(*ssh.Certificate); ok {
			got.certificate = certificate
		} else {
			got.hostKey = key
		}
	}
	if got.hostKey == nil {
		return facts{err: fmt.Errorf("%s has no host key: install the builder there", h.Name)}
	}
	return got
}

// differs says in what a host is not what the fleet's file says; nil if in nothing.
func (f Fleet) differs(h Host, got facts) error {
	switch {
	case got.err != nil:
		return got.err
	case !got.Active: // and has no slots
		return fmt.Errorf("%s does not listen, as %s.socket is not active: look there at: ephemeral-builder doctor", h.Name, f.Name)
	case got.Slots != h.Slots:
		return fmt.Errorf("%s has %d slots, and the fleet's file says %d: change slots there, or concurrency in its spec", h.Name, got.Slots, h.Slots)
	case got.Agent != f.Agent:
		return fmt.Errorf("%s has its agent on port %d, and the fleet's file says %d: set ssh.agent in its spec, and install it", h.Name, got.Agent, f.Agent)
	}
	// There can be a translation of addresses in between.
	if listen, err := netip.ParseAddrPort(got.Listen); err != nil || listen.Addr().IsLoopback() || listen.Port() != h.Address.Port() {
		return fmt.Errorf("%s listens on %s, where %s does not lead: set ssh.listen and ssh.from in its spec, and install it", h.Name, got.Listen, h.Address)
	}
	return nil
}
