// Package reproduce proves that an image does not depend on who builds it, where and
// when: it builds one twice, the second time under other circumstances, and compares.
package reproduce

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"ephemeral-builder/image"
	"ephemeral-builder/image/cache"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/compare"
	"ephemeral-builder/image/lock"
	"ephemeral-builder/image/prereq"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/rootfs"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/scripts"
)

// Options says what to build twice.
type Options struct {
	Spec     spec.Spec
	SpecFile string // that Spec was read from, relative to the current folder; empty for the default
	Lock     string // lock file with the packages; empty: what the mirror has today
	Program  string // the compiled magefile, whose target build makes the second image
}

// ErrDiffers is wrapped by the error of [Run] when the two images are not the same.
var ErrDiffers = errors.New("the image is not reproducible")

// maxDifferences is how many of them are told.
const maxDifferences = 50

// Run builds the image of a spec here as it is, without anything from an earlier build
// but its downloads, and again with the lock of the first, in another folder, for another
// day, and, if the caller is root, as another user, on another host name, with one core
// and other settings: see the script vary. It returns the digest of the uncompressed tar
// that both have in common.
func Run(ctx context.Context, rep *progress.Reporter, o Options) (digest string, err error) {
	needs := []prereq.Need{{Program: "faketime", Package: "faketime"}}
	if os.Geteuid() == 0 { // the second build's user can't install what only it needs
		needs = append(needs, prereq.Need{Program: "newuidmap", Package: "uidmap"})
	}
	if err := prereq.Ensure(ctx, rep, needs...); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "reproduce-")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w\nwhat was built and its logs are in %s: remove it when you have seen it", err, dir)
			return
		}
		err = errors.Join(err, rootfs.Remove(context.WithoutCancel(ctx), dir))
	}()
	if err := os.Chmod(dir, 0o755); err != nil { // for the other user
		return "", err
	}

	var packages *lock.Lock
	if o.Lock != "" {
		l, err := lock.Read(o.Lock)
		if err != nil {
			return "", err
		}
		packages = &l
	}
	rep.Note("first build: as it is")
	done, err := cache.Use(ctx, cache.Dir())
	if err != nil {
		return "", err
	}
	defer done()
	first := filepath.Join(dir, "first")
	debs := filepath.Join(cache.Dir(), "debs")
	if err := os.MkdirAll(filepath.Join(first, "cache"), 0o755); err != nil {
		return "", err
	}
	if err := errors.Join(os.MkdirAll(debs, 0o755), os.Symlink(debs, filepath.Join(first, "cache", "debs"))); err != nil {
		return "", err
	}
	a, err := image.Build(ctx, rep, image.Options{
		Spec: o.Spec, Version: "1", Lock: packages, Out: filepath.Join(first, "out"), Cache: filepath.Join(first, "cache"),
	})
	if err != nil {
		return "", err
	}

	rep.Note("second build: %s", circumstances())
	lockFile := strings.TrimSuffix(a.Manifest, ".manifest.json") + ".lock"
	b, err := o.second(ctx, rep, filepath.Join(dir, "second"), lockFile, debs)
	if err != nil {
		return "", err
	}
	return verdict(ctx, a, b)
}

// circumstances says what differs in the second build.
func circumstances() string {
	const always = "another folder, a day in 400 days"
	if os.Geteuid() != 0 {
		return always + ", another locale and time zone (as root also: another user, host name, umask, number of cores)"
	}
	return always + ", another user, host name, umask, locale, time zone, one core"
}

// second builds in a process of its own.
func (o Options) second(ctx context.Context, rep *progress.Reporter, dir, lockFile, debs string) (image.Image, error) {
	home := filepath.Join(dir, "home")
	cached := filepath.Join(home, ".cache", "ephemeral-builder", "debs")
	if err := os.MkdirAll(cached, 0o755); err != nil {
		return image.Image{}, err
	}
	l, err := lock.Read(lockFile)
	if err != nil {
		return image.Image{}, err
	}
	// The other user may read neither our cache nor our program where they are.
	files := map[string]string{lockFile: filepath.Join(dir, "lock"), o.Program: filepath.Join(dir, "ephemeral-builder")}
	for _, p := range l.Packages {
		files[filepath.Join(debs, rootfs.DebName(p))] = filepath.Join(cached, rootfs.DebName(p))
	}
	for from, to := range files {
		if err := copyFile(from, to); err != nil {
			return image.Image{}, err
		}
	}
	out := filepath.Join(home, "out")
	args := []string{filepath.Join(dir, "ephemeral-builder"), "build", "-version=1", "-lock=" + filepath.Join(dir, "lock"), "-out=" + out}
	if o.SpecFile != "" {
		args = append(args, "-spec="+o.SpecFile)
	}
	c := command.Cmd{Args: args, Env: []string{"FAKETIME=+400d", "TERM=dumb"}, Stdout: os.Stderr, Stderr: os.Stderr}
	if os.Geteuid() == 0 {
		script, err := scripts.FS.ReadFile("vary")
		if err != nil {
			return image.Image{}, err
		}
		c.Args = append([]string{"/bin/sh", "-c", string(script), "vary", dir}, args...)
		c.Namespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS
	} else {
		c.Env = append(c.Env, "XDG_CACHE_HOME="+filepath.Join(home, ".cache"), "LC_ALL=tr_TR.UTF-8", "TZ=Pacific/Kiritimati")
	}
	if err := command.Run(ctx, c); err != nil {
		if failed, ok := errors.AsType[*command.Error](err); ok {
			failed.Args, failed.Tail = args, "" // it stands above already
		}
		return image.Image{}, fmt.Errorf("the second build: %w", err)
	}
	return image.Find(out, o.Spec.Name, "1", "*")
}

// copyFile gives everybody a file to read, and to run if it is a program.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return errors.Join(out.Chmod(0o755), out.Close())
}

// verdict compares two images, and says in what they differ.
func verdict(ctx context.Context, a, b image.Image) (string, error) {
	manifestA, err := image.ReadManifest(a.Manifest)
	if err != nil {
		return "", err
	}
	manifestB, err := image.ReadManifest(b.Manifest)
	if err != nil {
		return "", err
	}
	if manifestA.Tar == manifestB.Tar {
		return manifestA.Tar.SHA256, nil
	}
	fileA, err := os.Open(a.Tarball)
	if err != nil {
		return "", err
	}
	defer fileA.Close()
	fileB, err := os.Open(b.Tarball)
	if err != nil {
		return "", err
	}
	defer fileB.Close()
	differences, err := compare.Tarballs(ctx, fileA, fileB)
	if err != nil {
		return "", err
	}
	text := compare.Table(differences, maxDifferences)
	detail, err := compare.Diffoscope(ctx, a.Tarball, b.Tarball)
	if err != nil {
		return "", err
	}
	if detail == "" {
		detail = "install diffoscope to see what differs in the files"
	}
	return "", fmt.Errorf("%w: %d paths differ:\n%s\n%s", ErrDiffers, len(differences), text, detail)
}
