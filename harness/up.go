package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh/knownhosts"

	"ephemeral-builder/harness/lab"
	"ephemeral-builder/image/cache"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/spec"
)

// UpOptions says which lab to leave running.
type UpOptions struct {
	Kind  string // "vm", "container" or "fleet"
	Suite string // Debian suite of the lab host
	Spec  spec.Spec
	JSON  bool
}

// description is what [Up] prints as JSON.
type description struct {
	Kind    string        `json:"kind"`
	Suite   string        `json:"suite"`
	Dir     string        `json:"dir"`
	Builder builderAccess `json:"builder,omitzero"` // a fleet has none
	Root    []string      `json:"root"`             // the command line of a root shell on the host
}

type builderAccess struct {
	Host       string `json:"host"`
	Port       int    `json:"port"`
	User       string `json:"user"`
	Identity   string `json:"identity"`    // file with the private key
	KnownHosts string `json:"known_hosts"` // file with the host's key
}

func (b builderAccess) ssh(options ...string) []string {
	args := []string{"ssh", "-F", "none", "-i", b.Identity, "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=" + b.KnownHosts, "-p", strconv.Itoa(b.Port)}
	return append(append(args, options...), b.User+"@"+b.Host)
}

// labDir is where the lab of [Up] lives.
func labDir() string { return filepath.Join(cache.Dir(), "lab") }

const accessFile = "access.json"

// Up starts a lab with the image installed, prints to w how to reach it, and leaves it
// running until [Down].
func Up(ctx context.Context, rep *progress.Reporter, w io.Writer, o UpOptions) (err error) {
	kind, err := hostKind(o.Kind)
	if err != nil {
		return err
	}
	// What leads into the lab leads to this port of its own loopback.
	o.Spec.SSH = spec.Default().SSH
	labs, err := openLabs(labDir())
	if err != nil {
		return err
	}
	for _, l := range labs {
		select {
		case <-l.Done(): // by itself, say with the machine: a new one may take its place
		default:
			return errors.New("a lab is running already: end it with: go tool mage lab:down")
		}
	}
	if err := closeLabs(ctx, labDir()); err != nil {
		return err
	}
	cfg := lab.Config{Kind: kind, Suite: o.Suite, Cache: filepath.Join(cache.Dir(), "labs"), Dir: labDir(), Detach: true}
	if o.Kind == fleetKind {
		return upFleet(ctx, rep, w, cfg, o)
	}
	h, err := startHost(ctx, rep, cfg, edition{o.Spec, "1"})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = h.close(context.WithoutCancel(ctx))
		}
	}()
	stage := rep.Stage("install")
	defer stage.Fail() // of no effect after Done
	if err := h.install(ctx, o.Spec); err != nil {
		return err
	}
	stage.Done("%s", o.Spec.Name)
	d, err := h.describe(ctx, o.Spec.Name)
	if err != nil {
		return err
	}
	if o.JSON {
		return d.print(w)
	}
	_, err = fmt.Fprintf(w, `%s lab with %s is up
builder:  %s
          or: go tool mage lab:ssh
root:     %s
          or: go tool mage lab:exec 'machinectl list'
end it:   go tool mage lab:down
`, d.Kind, d.Suite, command.Quote(d.Builder.ssh()), command.Quote(d.Root))
	return err
}

// upFleet is Up for a fleet, with the image installed on all but the balancer.
func upFleet(ctx context.Context, rep *progress.Reporter, w io.Writer, cfg lab.Config, o UpOptions) (err error) {
	f, err := startFleet(ctx, rep, cfg, edition{o.Spec, "1"})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.close(context.WithoutCancel(ctx))
		}
	}()
	stage := rep.Stage("install")
	defer stage.Fail() // of no effect after Done
	if err := f.each(ctx, func(ctx context.Context, h *host) error { return h.install(ctx, o.Spec) }); err != nil {
		return err
	}
	stage.Done("%s", o.Spec.Name)
	d := description{Kind: o.Kind, Suite: o.Suite, Dir: cfg.Dir, Root: f.balancer.lab.Describe().Root}
	if err := d.save(); err != nil {
		return err
	}
	if o.JSON {
		return d.print(w)
	}
	_, err = fmt.Fprintf(w, `%s lab with %s is up
balancer: %s
          or: go tool mage lab:exec 'ssh %s hostname'
from it:  ssh %s
end it:   go tool mage lab:down
`, d.Kind, d.Suite, command.Quote(d.Root), hostNames[0], strings.Join(hostNames, ", ssh "))
	return err
}

func (d description) print(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(d)
}

func (d description) save() error {
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.Dir, accessFile), text, 0o600)
}

// describe writes the builder's keys beside the lab's own and says where all is.
func (h *host) describe(ctx context.Context, name string) (description, error) {
	target, identity, err := h.builder(ctx, name)
	if err != nil {
		return description{}, err
	}
	l := h.lab.Describe()
	d := description{Kind: string(l.Kind), Suite: l.Suite, Dir: l.Dir, Root: l.Root, Builder: builderAccess{
		Host: l.Builder.Host, Port: l.Builder.Port, User: target.User,
		Identity:   filepath.Join(l.Dir, "builder_ed25519"),
		KnownHosts: filepath.Join(l.Dir, "builder_known_hosts"),
	}}
	if err := os.WriteFile(d.Builder.Identity, identity, 0o600); err != nil {
		return d, err
	}
	line := knownhosts.Line([]string{target.Addr}, target.HostKey) + "\n"
	if err := os.WriteFile(d.Builder.KnownHosts, []byte(line), 0o644); err != nil {
		return d, err
	}
	return d, d.save()
}

// running describes the lab that [Up] left.
func running() (description, error) {
	var d description
	labs, err := openLabs(labDir())
	if err != nil {
		return d, err
	}
	if len(labs) == 0 {
		return d, errors.New("no lab is running: start one with: go tool mage lab:up")
	}
	text, err := os.ReadFile(filepath.Join(labDir(), accessFile))
	if err != nil {
		return d, fmt.Errorf("the lab is not ready: wait for lab:up, or end it with: go tool mage lab:down: %w", err)
	}
	return d, json.Unmarshal(text, &d)
}

// Exec runs a shell command as root on the lab host, or a fleet's balancer, in place of this process.
func Exec(shellCommand string) error {
	d, err := running()
	if err != nil {
		return err
	}
	return command.Replace(append(d.Root, shellCommand))
}

// SSH opens a session in a container of its own, in place of this process: a login shell
// if shellCommand is empty.
func SSH(shellCommand string) error {
	d, err := running()
	if err != nil {
		return err
	}
	if d.Kind == fleetKind {
		return fmt.Errorf("a fleet's balancer has no builder: go to a host with: go tool mage lab:exec 'ssh %s'", hostNames[0])
	}
	if shellCommand == "" {
		return command.Replace(d.Builder.ssh("-t"))
	}
	return command.Replace(append(d.Builder.ssh(), shellCommand))
}

// Down ends the lab and removes it, with what it left if it ended by itself.
func Down(ctx context.Context) error {
	labs, err := openLabs(labDir())
	if err != nil {
		return err
	}
	if len(labs) == 0 {
		return errors.New("no lab is running")
	}
	if err := closeLabs(ctx, labDir()); err != nil {
		return err
	}
	return os.RemoveAll(labDir())
}
