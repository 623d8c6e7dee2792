// Package lab makes throw-away Debian hosts for tests, and for people to try things on.
//
// A lab of kind [VM] is complete: QEMU boots the host tree's own kernel, by KVM where that
// works and in software where it does not. A lab of kind [Container] is the same tree
// booted by systemd-nspawn in a second, without a kernel of its own; it needs root.
//
//	l, err := lab.Start(ctx, lab.Config{Kind: lab.VM, Suite: "trixie", Tree: tarball, Cache: cache, Dir: dir})
//	...
//	defer l.Close(ctx)
//	client, err := l.Dial(ctx) // root
//
// In the lab, /run/lab/share holds the files of Config.Share, and /var/lib/container is a
// directory of an ordinary file system. Its network ends at itself.
package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Kind is how a lab is made.
type Kind string

const (
	VM        Kind = "vm"        // QEMU, with a kernel of its own
	Container Kind = "container" // systemd-nspawn, on this machine's kernel
)

// Accel is how a VM's instructions are run.
type Accel string

const (
	KVM Accel = "kvm" // natively
	TCG Accel = "tcg" // in software, about 20 times slower
)

// Config describes a lab. Kind, Suite, Tree, Cache and Dir are required.
type Config struct {
	Kind  Kind
	Suite string // Debian's name for the tree's release, for file names only

	// Tree is a .tar.zst of a Debian host, with a kernel and its initrd in /boot, systemd,
	// systemd-container, dbus, openssh-server, udev and iproute2. It holds no devices.
	Tree string
	// Cache keeps what is made of Tree, by digest, for all labs.
	Cache string
	// Dir is this lab's own, made if absent. While the lab runs it holds its keys, its
	// changes to the disk and [File]; what [Lab.Close] leaves are [ConsoleLog], [JournalLog],
	// qemu.log and the command line.
	Dir string

	// Share maps a name in the lab's /run/lab/share to a file here.
	Share map[string]string

	// Detach lets the lab outlive this process. Without it the lab ends with this process
	// at the latest, even by SIGKILL.
	Detach bool

	Memory int   // of a VM, in MiB; 2048 if zero
	CPUs   int   // of a VM; 2 if zero
	Accel  Accel // of a VM; if empty KVM where it works, else TCG

	// Log receives lines for people about what takes time or was decided.
	Log func(format string, args ...any)

	qemu, kvm string // another program and device, in tests
}

// Files of Config.Dir.
const (
	// File describes the running lab, as JSON with the fields of [Description].
	File = "lab.json"
	// ConsoleLog is what the lab's kernel and systemd print.
	ConsoleLog = "console.log"
	// JournalLog is the lab's journal since its start in export format, for
	// "systemd-journal-remote -o FILE.journal" or to be searched as it is.
	JournalLog = "journal.export"

	readyFile = "ready" // one line for each boot
)

// Endpoint is a TCP port on this machine.
type Endpoint struct {
	Host string `json:"host"`
	Port int    `json:"port"`
}

// String returns "host:port".
func (e Endpoint) String() string { return net.JoinHostPort(e.Host, strconv.Itoa(e.Port)) }

// Description is what [File] holds.
type Description struct {
	Kind    Kind     `json:"kind"`
	Suite   string   `json:"suite"`
	Dir     string   `json:"dir"`             // absolute
	Accel   Accel    `json:"accel,omitempty"` // of a VM
	Builder Endpoint `json:"builder"`         // leads to the lab's own 127.0.0.1:24
	Sshd    Endpoint `json:"sshd"`            // leads to the lab's sshd, for root
	Root    []string `json:"root"`            // the command line of OpenSSH's client for root

	Process process  `json:"process"`           // the lab ends with it
	Cgroups []string `json:"cgroups,omitempty"` // of a container
}

// Lab is a running lab.
type Lab struct {
	desc    Description
	console console
	exited  <-chan struct{} // closed when the lab has ended

	mu     sync.Mutex
	closed bool
}

// Start makes a lab and returns once root can log in to it, which takes half a second
// for a container, some ten for a VM by KVM, and half a minute by TCG; the first one of a
// tree takes some seconds more. If ctx ends first, or Start fails, nothing is left but the
// evidence in Config.Dir, which the error names.
func Start(ctx context.Context, cfg Config) (_ *Lab, err error) {
	if _, err := ParseKind(string(cfg.Kind)); err != nil {
		return nil, err
	}
	if cfg.Kind == Container && os.Geteuid() != 0 {
		return nil, fmt.Errorf("a %s lab needs root: become root, or choose the kind %q", Container, VM)
	}
	if cfg.Log == nil {
		cfg.Log = func(string, ...any) {}
	}
	if cfg.Memory == 0 {
		cfg.Memory = 2048
	}
	if cfg.CPUs == 0 {
		cfg.CPUs = 2
	}
	cfg.qemu, cfg.kvm = "qemu-system-x86_64", "/dev/kvm"
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	// QEMU runs in dir.
	if cfg.Cache, err = filepath.Abs(cfg.Cache); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l := &Lab{desc: Description{Kind: cfg.Kind, Suite: cfg.Suite, Dir: dir}}
	if err := l.removeOld(ctx); err != nil {
		return nil, err
	}

	base, err := prepare(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("preparing a %s %s lab: %w", cfg.Suite, cfg.Kind, err)
	}
	defer base.Close() // the lab's process has it open, too

	defer func() {
		if err == nil {
			return
		}
		err = fmt.Errorf("starting a %s %s lab in %s: %w%s", cfg.Suite, cfg.Kind, dir, err, l.consoleTail())
		if ctx.Err() == nil {
			l.settle(ctx)
		}
		// ctx may be what ended the start.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, l.Close(ctx))
	}()
	if err := l.handIn(cfg.Share); err != nil {
		return nil, err
	}
	for _, name := range []string{ConsoleLog, JournalLog, readyFile} {
		if err := os.WriteFile(l.path(name), nil, 0o600); err != nil {
			return nil, err
		}
	}
	begin := time.Now()
	if cfg.Kind == VM {
		err = l.startVM(ctx, cfg, base)
	} else {
		err = l.startContainer(ctx, cfg, base)
	}
	if err != nil {
		return nil, err
	}
	if err := l.introduce(); err != nil {
		return nil, err
	}
	if err := l.WaitBoot(ctx, 1); err != nil {
		return nil, err
	}
	cfg.Log("%s %s lab is up after %.1f s%s", cfg.Suite, cfg.Kind, time.Since(begin).Seconds(), l.by())
	return l, nil
}

func (l *Lab) by() string {
	if l.desc.Accel == "" {
		return ""
	}
	return ", by " + string(l.desc.Accel)
}

// Open returns the lab that runs in dir, of this process or another. Without one the error
// is [fs.ErrNotExist].
func Open(dir string) (*Lab, error) {
	data, err := os.ReadFile(filepath.Join(dir, File))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no lab in %s: %w", dir, fs.ErrNotExist)
	} else if err != nil {
		return nil, err
	}
	l := new(Lab)
	if err := json.Unmarshal(data, &l.desc); err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Join(dir, File), err)
	}
	if l.desc.Dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	l.exited = l.desc.Process.watch()
	l.console.file = l.path(ConsoleLog)
	if _, err := l.console.lines(); err != nil { // what it says up to now is no news
		return nil, err
	}
	return l, nil
}

// save writes [File].
func (l *Lab) save() error {
	data, err := json.MarshalIndent(l.desc, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.path(File+".tmp"), append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(l.path(File+".tmp"), l.path(File))
}

// Describe returns what [File] holds.
func (l *Lab) Describe() Description { return l.desc }

// Root is the sshd of the lab, which lets root in with the lab's own key: see [Lab.Dial].
func (l *Lab) Root() Endpoint { return l.desc.Sshd }

// Builder leads to port 24 of the lab's own 127.0.0.1, whether or not something listens
// there: if not, connections are accepted and closed. A relay carries the connection that
// does not know half of one: when one side ends its stream, both ends are closed.
func (l *Lab) Builder() Endpoint { return l.desc.Builder }

// Done is closed when the lab has ended, by Close or by itself.
func (l *Lab) Done() <-chan struct{} { return l.exited }

// closeTimeout bounds Close after a failed start. SIGKILL takes some milliseconds.
const closeTimeout = 20 * time.Second

// Close ends the lab, and removes all of it but the evidence. It does nothing if it was
// closed before.
func (l *Lab) Close(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	if l.exited != nil {
		if err := l.desc.Process.kill(ctx); err != nil {
			return fmt.Errorf("ending the lab in %s: %w", l.desc.Dir, err)
		}
		select {
		case <-l.exited:
		case <-ctx.Done():
			return fmt.Errorf("ending the lab in %s: %w", l.desc.Dir, context.Cause(ctx))
		}
	}
	if err := l.remove(ctx); err != nil {
		return err
	}
	l.closed = true
	return nil
}

// removeOld removes what a lab has left here that was killed with the process that
// started it. One that still runs is an error.
func (l *Lab) removeOld(ctx context.Context) error {
	old, err := Open(l.desc.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return l.remove(ctx)
	} else if err != nil {
		return err
	}
	if old.desc.Process.alive() {
		return fmt.Errorf("a lab runs in %s: close it, or choose another directory", l.desc.Dir)
	}
	return old.Close(ctx)
}

// remove removes all files but the evidence.
func (l *Lab) remove(ctx context.Context) error {
	errs := []error{removeCgroups(ctx, l.desc.Cgroups)}
	for _, name := range slices.Concat(secrets, vmFiles, containerFiles) {
		errs = append(errs, os.RemoveAll(l.path(name)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing the lab in %s: %w", l.desc.Dir, err)
	}
	// Last, so that what could not be removed can be tried again.
	for _, name := range []string{readyFile, File} {
		if err := os.RemoveAll(l.path(name)); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) path(name ...string) string {
	return filepath.Join(append([]string{l.desc.Dir}, name...)...)
}
