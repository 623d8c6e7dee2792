// Package rootfs makes a Debian tree: debootstrap, then one script in its chroot, then
// everything out of it that identifies the machine it was made on.
package rootfs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/image/prereq"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/scripts"
)

// keyring is what debootstrap checks the archive's signature with.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// Ready makes sure, before any work, that [Make] can do its own: that it runs as root, and
// has its programs and the archive's keys.
func Ready(ctx context.Context, rep *progress.Reporter) error {
	if os.Geteuid() != 0 {
		return errors.New("building an image needs root: run it with sudo")
	}
	if err := prereq.Ensure(ctx, rep,
		prereq.Need{Program: "debootstrap", Package: "debootstrap"},
		prereq.Need{Program: "gpgv", Package: "gpgv"},
	); err != nil {
		return err
	}
	if _, err := os.Stat(keyring); err != nil {
		return fmt.Errorf("the keys of the Debian archive are missing: install debian-archive-keyring: %w", err)
	}
	return nil
}

// Options says what to put into a tree.
type Options struct {
	Release   Release   // from [Resolve]
	Arch      string    // Debian's name of the architecture: "amd64"
	Packages  []string  // beyond debootstrap's minbase
	Customize []string  // a script of package scripts and its arguments, run in the chroot; none if empty
	Epoch     time.Time // SOURCE_DATE_EPOCH for all that is run
	Debs      string    // folder that keeps downloaded packages, made if absent
	Log       string    // file that gets all output, kept
}

// Make fills tree, which must be empty or absent, and reports each stage to rep, once
// [Ready] has passed. Everything runs in mount and PID namespaces of its own, so that an
// interrupted build leaves no mount and no process; the tree is the caller's to remove.
func Make(ctx context.Context, rep *progress.Reporter, tree string, o Options) (err error) {
	log, err := os.OpenFile(o.Log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w\n%sthe whole log is in %s", err, fullDisk(tree), o.Log)
		}
	}()
	m := maker{Options: o, tree: tree, log: log}

	stage := rep.Stage("bootstrap")
	if err := m.bootstrap(ctx, stage); err != nil {
		stage.Fail()
		return err
	}
	stage.Done("%s", o.Release.Codename)

	stage = rep.Stage("customize")
	for _, script := range [][]string{o.Customize, {"tree-clean"}} {
		if len(script) == 0 {
			continue
		}
		stage.Detail("%s", script[0])
		if err := m.script(ctx, script[0], script[1:]...); err != nil {
			stage.Fail()
			return err
		}
	}
	stage.Done("")
	return nil
}

type maker struct {
	Options
	tree string
	log  io.Writer
}

func (m maker) env() []string {
	return []string{
		"SOURCE_DATE_EPOCH=" + strconv.FormatInt(m.Epoch.Unix(), 10),
		"DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", "TZ=UTC",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
}

func (m maker) bootstrap(ctx context.Context, stage *progress.Stage) error {
	stage.Detail("waiting for another build that uses the package cache")
	// debootstrap downloads into its --cache-dir in place: of two at once, one would
	// unpack half a package.
	if err := os.MkdirAll(m.Debs, 0o755); err != nil {
		return err
	}
	unlock, err := dirlock.Lock(ctx, m.Debs)
	if err != nil {
		return err
	}
	defer unlock()
	stage.Detail("reading the mirror's index")
	err = command.Run(ctx, command.Cmd{
		Args: []string{
			"debootstrap", "--variant=minbase", "--force-check-gpg", "--keyring=" + keyring,
			"--arch=" + m.Arch, "--cache-dir=" + m.Debs, "--include=" + strings.Join(m.Packages, ","),
			m.Release.Codename, m.tree, m.Release.Mirror,
		},
		Env:      m.env(),
		Isolated: true,
		Stdout:   io.MultiWriter(m.log, stage),
		Stderr:   m.log,
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	// debootstrap keeps what dpkg said in the tree, which is about to be removed.
	inner, readErr := os.ReadFile(filepath.Join(m.tree, "debootstrap", "debootstrap.log"))
	if readErr != nil {
		return err
	}
	_, _ = m.log.Write(inner)
	return fmt.Errorf("%w\nthe end of debootstrap's log:\n%s", err, lastLines(inner, 10))
}

// script runs a script of package scripts in the tree's chroot.
func (m maker) script(ctx context.Context, name string, args ...string) error {
	text, err := scripts.FS.ReadFile(name)
	if err != nil {
		return err
	}
	return command.Run(ctx, command.Cmd{
		Args:     append([]string{"chroot", m.tree, "/bin/sh", "-s", "--"}, args...),
		Env:      m.env(),
		Stdin:    bytes.NewReader(text),
		Stdout:   m.log,
		Stderr:   m.log,
		Isolated: true,
	})
}

// fullDisk explains a failure by the file system below path, if that is full.
func fullDisk(path string) string {
	var st syscall.Statfs_t
	for ; path != "/"; path = filepath.Dir(path) {
		if syscall.Statfs(path, &st) == nil {
			break
		}
	}
	if st.Bavail*uint64(st.Bsize) > 16<<20 && (st.Files == 0 || st.Ffree > 100) {
		return ""
	}
	return fmt.Sprintf("the disk below %s is full: free some space, or set XDG_CACHE_HOME to a folder on another disk\n", path)
}

// lastLines returns the last n lines of text, indented.
func lastLines(text []byte, n int) string {
	var all []string
	s := bufio.NewScanner(bytes.NewReader(text))
	for s.Scan() {
		all = append(all, "    "+s.Text())
	}
	return strings.Join(all[max(0, len(all)-n):], "\n")
}
