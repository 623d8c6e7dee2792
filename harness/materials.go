package harness

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ephemeral-builder/image"
	"ephemeral-builder/image/archive"
	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/rootfs"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/scripts"
)

// hostPackages make a bare Debian tree a host: a kernel, systemd, what ephemeral-builder
// needs, and what the scripts in testdata look at it with.
func hostPackages(arch image.Arch) []string {
	return []string{
		"linux-image-cloud-" + arch.Debian, "initramfs-tools", "systemd", "systemd-sysv", "systemd-container", "dbus",
		"libpam-systemd", "openssh-server", "udev", "kmod", "iproute2", "nftables", "procps", "zstd", "rsync",
	}
}

// materials are what a lab is made of. All of it is in the cache, under names that carry
// a digest of what went into it.
type materials struct {
	hostTree string            // tarball of the lab host's rootfs
	share    map[string]string // name below /run/lab/share in the lab → file here
}

// gather makes what is not in the cache yet.
func gather(ctx context.Context, rep *progress.Reporter, suite string, s spec.Spec) (materials, error) {
	m := materials{share: map[string]string{}}
	arch, err := image.HostArch()
	if err != nil {
		return m, err
	}
	if err := rootfs.Ready(ctx, rep); err != nil {
		return m, err
	}
	if m.hostTree, err = hostTree(ctx, rep, arch, suite, s.Mirror); err != nil {
		return m, fmt.Errorf("making the lab host: %w", err)
	}
	dist, err := builderImage(ctx, rep, s)
	if err != nil {
		return m, fmt.Errorf("making the image: %w", err)
	}
	if m.share["ephemeral-builder"], err = binary(ctx, rep); err != nil {
		return m, err
	}
	m.share["multiplex"] = filepath.Join("scripts", "multiplex")
	for _, dir := range []string{dist, filepath.Join("testdata", "specs")} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return m, err
		}
		for _, entry := range entries {
			m.share[filepath.Base(dir)+"/"+entry.Name()] = filepath.Join(dir, entry.Name())
		}
	}
	return m, nil
}

// hostTree is the tarball of a lab host's rootfs.
func hostTree(ctx context.Context, rep *progress.Reporter, arch image.Arch, suite, mirror string) (string, error) {
	release, err := rootfs.Resolve(ctx, mirror, suite)
	if err != nil {
		return "", err
	}
	packages := hostPackages(arch)
	clean, err := scripts.FS.ReadFile("tree-clean")
	if err != nil {
		return "", err
	}
	key := digest(release, packages, string(clean))
	dir := filepath.Join(image.CacheDir(), "hosts", release.Codename+"-"+key)
	tarball := filepath.Join(dir, "host.tar.zst")
	return tarball, once(ctx, dir, tarball, func() error {
		tree := filepath.Join(dir, "tree.partial")
		defer os.RemoveAll(tree)
		if err := os.RemoveAll(tree); err != nil { // of a run that was killed
			return err
		}
		// Any fixed time will do: nothing compares two lab hosts.
		epoch := time.Unix(1, 0)
		if err := rootfs.Make(ctx, rep, tree, rootfs.Options{
			Release: release, Arch: arch.Debian, Packages: packages, Epoch: epoch,
			Debs: filepath.Join(image.CacheDir(), "debs"), Log: filepath.Join(dir, "build.log"),
		}); err != nil {
			return err
		}
		stage := rep.Stage("pack")
		defer stage.Fail() // of no effect after Done
		pending, err := atomicfile.Create(tarball, 0o644)
		if err != nil {
			return err
		}
		defer pending.Cleanup()
		summary, err := archive.Pack(ctx, tree, pending, archive.Options{Epoch: time.Now(), Progress: stage.Set})
		if err != nil {
			return err
		}
		stage.Done("lab host %s, %d MiB", release.Codename, summary.TarSize>>20)
		return pending.CloseAtomicallyReplace()
	})
}

// builderImage is the folder, in the cache, of the image that is under test. It is built
// anew when the spec, the mirror's suite or the code that builds images has changed.
func builderImage(ctx context.Context, rep *progress.Reporter, s spec.Spec) (string, error) {
	release, err := rootfs.Resolve(ctx, s.Mirror, s.Suite)
	if err != nil {
		return "", err
	}
	sources, err := digestTrees("image", "scripts")
	if err != nil {
		return "", err
	}
	key := digest(release, s.Name, s.Packages, s.User, sources)
	dist := filepath.Join(image.CacheDir(), "images", key, "dist")
	return dist, once(ctx, filepath.Dir(dist), filepath.Join(dist, "SHA256SUMS"), func() error {
		_, err := image.Build(ctx, rep, image.Options{Spec: s, Version: "1", Out: dist, Cache: image.CacheDir()})
		return err
	})
}

// binary compiles the magefile into a program that needs nothing but a kernel.
func binary(ctx context.Context, rep *progress.Reporter) (string, error) {
	sources, err := digestTrees("magefile.go", "go.sum", "harness", "units", "image", "scripts")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(image.CacheDir(), "bin", sources)
	path := filepath.Join(dir, "ephemeral-builder")
	return path, once(ctx, dir, path, func() error {
		stage := rep.Stage("compile")
		defer stage.Fail() // of no effect after Done
		partial := path + ".partial"
		if err := command.Run(ctx, command.Cmd{
			Args: []string{"go", "tool", "mage", "-compile", partial},
			Env:  []string{"CGO_ENABLED=0"},
		}); err != nil {
			return err
		}
		stage.Done("%s", path)
		return os.Rename(partial, path)
	})
}

// once runs work unless result exists, holding the lock of dir, which is made.
func once(ctx context.Context, dir, result string, work func() error) error {
	unlock, err := dirlock.Make(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(result); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return work()
}

// digest is a short name for values, by their JSON.
func digest(values ...any) string {
	h := sha256.New()
	encoder := json.NewEncoder(h)
	for _, value := range values {
		_ = encoder.Encode(value) // of plain values into a hash: can't fail
	}
	return short(h)
}

// digestTrees is a short name for the files in some folders, but for tests.
func digestTrees(dirs ...string) (string, error) {
	h := sha256.New()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			fmt.Fprintf(h, "%s %d\n%s", path, len(text), text)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return short(h), nil
}

func short(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil))[:16] }
