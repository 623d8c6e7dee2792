package harness

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/crypto/ssh"

	"ephemeral-builder/harness/lab"
	"ephemeral-builder/harness/sshclient"
	"ephemeral-builder/image/prereq"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/units"
)

// host is a lab on which ephemeral-builder can be installed: root's home has its program
// on PATH, the image in dist, and the specs of testdata.
type host struct {
	name   string // in a fleet
	lab    *lab.Lab
	root   *sshclient.Conn
	halted bool // by a script
}

// startHost gathers what the lab is made of and starts it.
func startHost(ctx context.Context, rep *progress.Reporter, cfg lab.Config, editions ...edition) (*host, error) {
	if err := prereq.Ensure(ctx, rep, lab.Needs(cfg.Kind)...); err != nil {
		return nil, err
	}
	materials, err := gather(ctx, rep, cfg.Suite, editions...)
	if err != nil {
		return nil, err
	}
	cfg.Tree, cfg.Share = materials.hostTree, materials.share
	stage := rep.Stage("lab")
	defer stage.Fail() // of no effect after Done
	stage.Detail("starting a %s lab with %s", cfg.Kind, cfg.Suite)
	cfg.Log = rep.Note
	h, err := bootHost(ctx, cfg)
	if err != nil {
		return nil, err
	}
	stage.Done("%s", cfg.Dir)
	return h, nil
}

// bootHost starts a lab of what was gathered.
func bootHost(ctx context.Context, cfg lab.Config) (*host, error) {
	l, err := lab.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	h, err := openHost(ctx, l)
	if err == nil {
		_, err = h.output(ctx, "ln -sf /run/lab/share/ephemeral-builder /run/lab/share/stand-ins /run/lab/share/gitlab /usr/local/bin/ && ln -sfn /run/lab/share/dist dist && ln -sf /run/lab/share/specs/* .")
	}
	if err != nil {
		_ = l.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return h, nil
}

// openHost connects to a lab that runs.
func openHost(ctx context.Context, l *lab.Lab) (*host, error) {
	root, err := l.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return &host{lab: l, root: root}, nil
}

// reconnect connects anew if the last command lost the connection, so that one script
// that does so does not fail all that follow.
func (h *host) reconnect(ctx context.Context) error {
	select {
	case <-h.root.Done():
	default:
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	root, err := h.lab.Dial(ctx)
	if err == nil {
		h.root = root
	}
	return err
}

// restart ends the host as a power cut does, without a word to anybody, and waits until it is
// up again.
func (h *host) restart(ctx context.Context) error {
	boots, err := h.lab.Boots()
	if err != nil {
		return err
	}
	// reboot(2), with nothing before it. Nobody tells the connection of it, so not to be waited for.
	if _, err := h.output(ctx, "(sleep 0.1; systemctl reboot --force --force) >/dev/null 2>&1 &"); err != nil {
		return err
	}
	if err := h.lab.WaitBoot(ctx, boots+1); err != nil {
		return fmt.Errorf("the lab host after its restart: %w", err)
	}
	_ = h.root.Close()
	h.root, err = h.lab.Dial(ctx)
	return err
}

// run runs a shell command as root on the host, outside all containers. $KEYS is the
// folder of the default builder's keys.
func (h *host) run(ctx context.Context, command string, stdin io.Reader, stdout, stderr io.Writer) error {
	return h.root.Run(ctx, "KEYS="+units.ConfigDir+"/"+spec.Default().Name+"; "+command, stdin, stdout, stderr)
}

// ownTimeout bounds a command of the harness itself: the longest extracts an image under
// emulation, in some two minutes.
const ownTimeout = 10 * time.Minute

// output is run for the harness's own needs: standard output, or an error with all that
// was printed.
func (h *host) output(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, ownTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	if err := h.run(ctx, command, nil, &stdout, &stderr); err != nil {
		return "", fmt.Errorf("on %s: %s: %w\n%s%s", h, command, err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// install installs a spec as an administrator would.
func (h *host) install(ctx context.Context, s spec.Spec) error {
	text, err := toml.Marshal(s)
	if err != nil {
		return err
	}
	var said bytes.Buffer
	if err := h.run(ctx, "cat >lab-up.toml && ephemeral-builder install -spec=lab-up.toml", bytes.NewReader(text), &said, &said); err != nil {
		return fmt.Errorf("installing on %s: %w\n%s", h, err, said.String())
	}
	return nil
}

// builder says how to reach the builder NAME that is installed on the host, with the
// host's own keys.
func (h *host) builder(ctx context.Context, name string) (target sshclient.Target, identity []byte, err error) {
	dir := units.ConfigDir + "/" + name
	private, err := h.output(ctx, "cat "+dir+"/runner_ed25519")
	if err != nil {
		return target, nil, err
	}
	public, err := h.output(ctx, "cat "+dir+"/ssh_host_ed25519_key.pub")
	if err != nil {
		return target, nil, err
	}
	target = sshclient.Target{Addr: h.lab.Builder().String(), User: "builder"}
	if target.Identity, err = ssh.ParsePrivateKey([]byte(private)); err != nil {
		return target, nil, err
	}
	if target.HostKey, _, _, _, err = ssh.ParseAuthorizedKey([]byte(strings.TrimSpace(public))); err != nil {
		return target, nil, err
	}
	return target, []byte(private), nil
}

func (h *host) String() string { return cmp.Or(h.name, "the lab host") }

func (h *host) close(ctx context.Context) error {
	_ = h.root.Close()
	return h.lab.Close(ctx)
}
