// Package rootfs makes the tree of a Debian system inside a [space.Space]: debootstrap
// installs what a lock names, scripts make it an image. From outside the tree is seen as
// a tar stream only, as its files belong to ids that the caller may not have.
package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/space"
	"ephemeral-builder/scripts"
)

// Tree is a file system tree in a space.
type Tree struct {
	space *space.Space
	dir   string
	log   io.Writer
	onRAM bool
	saves errgroup.Group // are on the disk when it ends
}

// New makes an empty tree that is seen at dir, an empty folder, in the space only. With
// room for it in memory, size being the bytes that it may need, it is a tmpfs: three
// times as fast as a disk for the many small files. All output of programs goes to log.
func New(ctx context.Context, s *space.Space, dir string, size int64, log io.Writer) (*Tree, error) {
	t := &Tree{space: s, dir: dir, log: log}
	available, err := memoryAvailable()
	if err != nil {
		return nil, err
	}
	if t.onRAM = available > size+size/2; !t.onRAM {
		fmt.Fprintf(log, "%d MiB of memory are available: using the disk\n", available>>20)
		return t, nil
	}
	options := fmt.Sprintf("mode=0755,nr_inodes=0,size=%d", size+size/2)
	// Huge pages are quicker to fill. Not every kernel has them.
	if t.run(ctx, "mount", "-t", "tmpfs", "-o", options+",huge=within_size", "tmpfs", dir) == nil {
		return t, nil
	}
	return t, t.run(ctx, "mount", "-t", "tmpfs", "-o", options, "tmpfs", dir)
}

// Close takes the tree away.
func (t *Tree) Close(ctx context.Context) (err error) {
	defer func() { err = errors.Join(t.saves.Wait(), err) }()
	if t.onRAM {
		return t.run(ctx, "umount", "--lazy", t.dir)
	}
	return t.run(ctx, "find", t.dir, "-xdev", "-mindepth", "1", "-delete")
}

// Remove deletes a folder that a killed build left behind, which the caller may not be
// able to: its files can belong to subordinate ids.
func Remove(ctx context.Context, dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || os.Geteuid() == 0 {
		return err
	}
	s, err := space.Start(ctx, "")
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Run(ctx, command.Cmd{Args: []string{"rm", "-rf", "--one-file-system", "--", dir}})
}

// Write streams the tree to w as a tar of GNU's pax format, sorted, without what is
// mounted in it.
func (t *Tree) Write(ctx context.Context, w *os.File) error {
	return t.space.Run(ctx, command.Cmd{
		Args: []string{"tar", "--create", "--directory", t.dir, "--sort=name", "--format=pax", "--numeric-owner",
			"--xattrs", "--xattrs-include=*", "--one-file-system", "."},
		Env:    locale,
		Bulk:   w,
		Stderr: t.log,
	})
}

// Read fills an empty tree with what [Tree.Write] has written.
func (t *Tree) Read(ctx context.Context, r io.Reader) error {
	return t.space.Run(ctx, command.Cmd{
		Args: []string{"tar", "--extract", "--directory", t.dir, "--preserve-permissions", "--numeric-owner",
			"--xattrs", "--xattrs-include=*"},
		Env:    locale,
		Stdin:  r,
		Stdout: t.log,
		Stderr: t.log,
	})
}

// Overlay lays the files of a tar stream over the tree. Folders that exist keep their
// modes, and links to folders stay links: /lib is one. It runs in the chroot, as absolute
// links would lead out of the tree.
func (t *Tree) Overlay(ctx context.Context, epoch time.Time, r io.Reader) error {
	return t.chroot(ctx, epoch, r, "tar", "--extract", "--preserve-permissions", "--numeric-owner",
		"--no-overwrite-dir", "--keep-directory-symlink")
}

// Script runs a script of package scripts as root in the tree's chroot.
func (t *Tree) Script(ctx context.Context, epoch time.Time, name string, args ...string) error {
	text, err := scripts.FS.ReadFile(name)
	if err != nil {
		return err
	}
	return t.chroot(ctx, epoch, bytes.NewReader(text), append([]string{"/bin/sh", "-s", "--"}, args...)...)
}

// Hook runs a program, given by its text, likewise.
func (t *Tree) Hook(ctx context.Context, epoch time.Time, name string, text []byte) error {
	const install = `umask 077; cat >"$1" && chmod 0700 "$1"`
	path := filepath.Join("/tmp", "hook-"+filepath.Base(name))
	if err := t.space.Run(ctx, command.Cmd{
		Args: []string{"/bin/sh", "-c", install, "sh", t.dir + path}, Stdin: bytes.NewReader(text), Stderr: t.log,
	}); err != nil {
		return err
	}
	if err := t.chroot(ctx, epoch, nil, path); err != nil {
		return fmt.Errorf("hook %s: %w", name, err)
	}
	return t.run(ctx, "rm", t.dir+path)
}

// chroot runs a program with the file systems that programs expect, until it ends.
func (t *Tree) chroot(ctx context.Context, epoch time.Time, stdin io.Reader, args ...string) error {
	enter, err := scripts.FS.ReadFile("chroot-run")
	if err != nil {
		return err
	}
	err = t.space.Run(ctx, command.Cmd{
		Args:   append([]string{"unshare", "--mount", "/bin/sh", "-c", string(enter), "chroot-run", t.dir}, args...),
		Env:    environment(epoch),
		Stdin:  stdin,
		Stdout: t.log,
		Stderr: t.log,
	})
	return asked(err, args)
}

// run runs a program on the tree, not in it.
func (t *Tree) run(ctx context.Context, args ...string) error {
	return t.space.Run(ctx, command.Cmd{Args: args, Stdout: t.log, Stderr: t.log})
}

// locale makes the order of names bytewise.
var locale = []string{"LC_ALL=C"}

// environment is that of all programs that make the tree.
func environment(epoch time.Time) []string {
	return []string{
		"SOURCE_DATE_EPOCH=" + strconv.FormatInt(epoch.Unix(), 10),
		"DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", "TZ=UTC", "HOME=/root",
	}
}

// memoryAvailable is what may be used without swapping, in bytes (proc_meminfo(5)).
func memoryAvailable() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		var kib int64
		if n, _ := fmt.Sscanf(string(line), "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no MemAvailable")
}

// FullDisk explains a failure by the file system of a folder, if that is full.
func FullDisk(dir string) string {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Bavail*uint64(st.Bsize) > 16<<20 && (st.Files == 0 || st.Ffree > 100) {
		return ""
	}
	return fmt.Sprintf("the disk of %s is full: free some space, or set XDG_CACHE_HOME to a folder on another disk\n", dir)
}
