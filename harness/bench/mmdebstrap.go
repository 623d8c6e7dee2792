package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pault.ag/go/debian/deb"

	"ephemeral-builder/image/archive"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/inventory"
	"ephemeral-builder/image/lock"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/rootfs"
	"ephemeral-builder/image/space"
)

// rival is the tarball that mmdebstrap makes.
const rival = "mmdebstrap.tar.zst"

const hooks = "/usr/share/mmdebstrap/hooks/"

// mmdebstrap makes a tarball of the lock's packages.
func (b *builds) mmdebstrap(ctx context.Context, _ *progress.Reporter, s *steps) (path string, err error) {
	sp, err := space.Start(ctx, "")
	if err != nil {
		return "", err
	}
	defer sp.Close()
	tmp := b.path("tmp")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return "", err
	}
	tree, err := rootfs.New(ctx, sp, tmp, b.debs.Room(), io.Discard)
	if err != nil {
		return "", err
	}
	defer tree.Close(context.WithoutCancel(ctx))
	path = b.path(rival)
	codename := b.lock.Sources[0].Codename
	args := []string{"mmdebstrap", "--mode=root", "--variant=minbase", "--hook-dir=" + hooks + "file-mirror-automount"}
	var names []string
	for _, p := range b.lock.Packages {
		names = append(names, p.Name)
	}
	if slices.Contains(names, "usr-is-merged") { // bookworm, whose packages don't make /usr one themselves
		args = append(args, "--hook-dir="+hooks+"merged-usr")
	}
	args = append(args, "--include="+strings.Join(names, ","), codename, path,
		fmt.Sprintf("deb [trusted=yes] file://%s %s main", b.path("mirror"), codename))
	err = sp.Run(ctx, command.Cmd{
		Args: args,
		Env: []string{"TMPDIR=" + tmp, "ZSTD_NBTHREADS=0", "LC_ALL=C.UTF-8", "HOME=/root",
			"SOURCE_DATE_EPOCH=" + strconv.FormatInt(b.debs.Newest.Unix(), 10)},
		Stderr: &lines{see: func(line string) {
			if step := stepOfMmdebstrap(line); step != "" {
				s.next(step, time.Now())
			}
		}},
	})
	return path, err
}

// lines calls see for each line that is written to it.
type lines struct {
	see     func(string)
	partial []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.partial = append(l.partial, p...)
	for {
		line, rest, found := bytes.Cut(l.partial, []byte("\n"))
		if !found {
			return len(p), nil
		}
		l.see(string(line))
		l.partial = rest
	}
}

// writeMirror makes a repository of exactly the packages of a lock, whose files are in
// debs. It verifies them, and so has read all once: the first run must not be the only
// one that waits for the disk. They are hard links, as a chroot can't follow others.
func writeMirror(ctx context.Context, dir string, l lock.Lock, debs string) error {
	if err := rootfs.Remove(ctx, dir); err != nil {
		return err
	}
	release := filepath.Join(dir, "dists", l.Sources[0].Codename)
	index := filepath.Join("main", "binary-"+l.Architecture, "Packages")
	for _, folder := range []string{filepath.Join(dir, "pool"), filepath.Dir(filepath.Join(release, index))} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	var packages bytes.Buffer
	for _, p := range l.Packages {
		path := filepath.Join(debs, rootfs.DebName(p))
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if digest(content) != p.SHA256 {
			return fmt.Errorf("%s has other bytes than the archive's: remove it and run it again", path)
		}
		file, err := deb.Load(bytes.NewReader(content), path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, key := range file.Control.Order {
			if key != "Description" {
				fmt.Fprintf(&packages, "%s: %s\n", key, strings.Join(strings.Fields(file.Control.Values[key]), " "))
			}
		}
		file.Close()
		name := filepath.Join("pool", rootfs.DebName(p))
		fmt.Fprintf(&packages, "Filename: %s\nSize: %d\nSHA256: %s\n\n", name, len(content), p.SHA256)
		if err := os.Link(path, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(release, index), packages.Bytes(), 0o644); err != nil {
		return err
	}
	// By the codename mmdebstrap finds what is essential.
	text := fmt.Sprintf("Suite: %s\nCodename: %[1]s\nArchitectures: %s all\nComponents: main\nDate: %s\nSHA256:\n %s %d %s\n",
		l.Sources[0].Codename, l.Architecture, l.Sources[0].Date, digest(packages.Bytes()), packages.Len(), index)
	return os.WriteFile(filepath.Join(release, "Release"), []byte(text), 0o644)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// installed are the packages of a tarball.
func installed(ctx context.Context, path string) ([]lock.Entry, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	contents := inventory.New()
	if _, err := archive.Read(ctx, file, contents.Visit); err != nil {
		return nil, err
	}
	packages, err := contents.Packages()
	if err != nil {
		return nil, err
	}
	entries := make([]lock.Entry, len(packages))
	for i, p := range packages {
		entries[i] = lock.Entry{Name: p.Name, Version: p.Version, Architecture: p.Architecture}
	}
	return entries, nil
}
