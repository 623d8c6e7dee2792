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
	"os/exec"
	"path/filepath"
	"strings"

	"ephemeral-builder/harness/deb"
	"ephemeral-builder/image"
	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/cache"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/rootfs"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/image/sums"
	"ephemeral-builder/scripts"
)

// hostPackages make a bare Debian tree a host: a kernel, systemd, what ephemeral-builder
// needs, and what the scripts in testdata look at it with.
func hostPackages(arch image.Arch, suite string) []string {
	packages := []string{
		"linux-image-cloud-" + arch.Debian, "initramfs-tools", "systemd", "systemd-sysv", "systemd-container", "dbus",
		"libpam-systemd", "openssh-server", "udev", "kmod", "iproute2", "nftables", "conntrack", "e2fsprogs", "procps", "zstd", "rsync",
		// What publish-*.txtar feeds with images, and feeds them with.
		"gpg", "gpg-agent", "xz-utils", "busybox", "docker.io", "podman", "crun", "netavark", "docker-registry",
		// What hostile-*.txtar aims at, and what may be on a host besides.
		"socat", "dnsmasq-base", "firewalld",
		// What gitlab-*.txtar clone from.
		"git",
		// What fleet-*.txtar put before several hosts, and go from one to another with.
		"haproxy", "openssh-client",
	}
	if suite != "bookworm" { // which has docker's client in docker.io, and no Incus
		packages = append(packages, "docker-cli", "incus-client", "incus-extra", "openssl")
	}
	return packages
}

// materials are what a lab is made of. All of it is in the cache, under names that carry
// a digest of what went into it.
type materials struct {
	hostTree string            // tarball of the lab host's rootfs
	share    map[string]string // name below /run/lab/share in the lab → file here
}

// edition is an image that a lab has in dist.
type edition struct {
	spec    spec.Spec
	version string
}

// testEditions are the images that scripts install. That with a root for jobs is the older
// one, so that nobody gets it who does not ask for it.
func testEditions() ([]edition, error) {
	sudo, err := spec.Load(filepath.Join("testdata", "specs", "sudo.toml"))
	return []edition{{spec.Default(), "1"}, {sudo, "0.sudo"}}, err
}

// gather makes what is not in the cache yet.
func gather(ctx context.Context, rep *progress.Reporter, suite string, editions ...edition) (materials, error) {
	m := materials{share: map[string]string{}}
	arch, err := image.HostArch()
	if err != nil {
		return m, err
	}
	if err := rootfs.Ready(ctx, rep, arch.Debian); err != nil {
		return m, err
	}
	if m.hostTree, err = hostTree(ctx, rep, arch, suite, editions[0].spec.Mirror); err != nil {
		return m, fmt.Errorf("making the lab host: %w", err)
	}
	if err := m.dist(ctx, rep, editions); err != nil {
		return m, fmt.Errorf("making the image: %w", err)
	}
	if m.share["ephemeral-builder"], err = binary(ctx, rep); err != nil {
		return m, err
	}
	if m.share["ephemeral-builder.deb"], err = debianPackage(ctx, rep, m.share["ephemeral-builder"]); err != nil {
		return m, err
	}
	for name, pkg := range map[string]string{"labgitlab": "./harness/gitlab/labgitlab", "gitlab-runner": "./harness/gitlab/helper"} {
		if m.share[name], err = program(ctx, name, pkg); err != nil {
			return m, err
		}
	}
	if path := realRunner(); path != "" {
		m.share["gitlab-runner"] = path
	}
	m.share["multiplex"] = filepath.Join("scripts", "multiplex")
	m.share["gitlab"] = filepath.Join("scripts", "lab-gitlab")
	m.share["stand-ins"] = filepath.Join("scripts", "lab-stand-ins")
	return m, errors.Join(m.shareFolder(filepath.Join("testdata", "specs")), m.shareFolder(filepath.Join("testdata", "tutorial")), m.shareFolder(filepath.Join("testdata", "contenders")))
}

// shareFolder shares the files in dir, in a folder of its name.
func (m materials) shareFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		m.share[filepath.Base(dir)+"/"+entry.Name()] = filepath.Join(dir, entry.Name())
	}
	return err
}

// dist shares the images of all editions, as if they had been built into one folder.
func (m materials) dist(ctx context.Context, rep *progress.Reporter, editions []edition) error {
	var listed []byte
	for _, e := range editions {
		dist, err := builderImage(ctx, rep, e)
		if err != nil {
			return err
		}
		if err := m.shareFolder(dist); err != nil {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dist, sums.Name))
		if err != nil {
			return err
		}
		listed = append(listed, text...)
	}
	dir := filepath.Join(cache.Dir(), "images", digest(listed))
	all := filepath.Join(dir, sums.Name)
	m.share["dist/"+sums.Name] = all
	return once(ctx, dir, all, func() error { return atomicfile.Write(all, listed, 0o644) })
}

// hostTree is the tarball of a lab host's rootfs.
func hostTree(ctx context.Context, rep *progress.Reporter, arch image.Arch, suite, mirror string) (string, error) {
	s := spec.Default()
	s.Suite, s.Mirror, s.Packages = suite, mirror, hostPackages(arch, suite)
	stage := rep.Stage("resolve")
	defer stage.Fail() // of no effect after Done
	l, err := image.Resolve(ctx, stage, s, cache.Dir())
	if err != nil {
		return "", err
	}
	stage.Done("lab host %s, %d packages", l.Sources[0].Codename, len(l.Packages))
	clean, err := scripts.FS.ReadFile("tree-clean")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache.Dir(), "hosts", l.Sources[0].Codename+"-"+digest(l.Packages, string(clean)))
	tarball := filepath.Join(dir, "host.tar.zst")
	return tarball, once(ctx, dir, tarball, func() error {
		debs := filepath.Join(cache.Dir(), "debs")
		if err := image.Download(ctx, rep, l, debs); err != nil {
			return err
		}
		pending, err := atomicfile.Create(tarball, 0o644)
		if err != nil {
			return err
		}
		defer pending.Cleanup()
		if err := image.Plain(ctx, rep, l, debs, filepath.Join(dir, "work"), pending); err != nil {
			return err
		}
		return pending.CloseAtomicallyReplace()
	})
}

// builderImage is the folder, in the cache, of an image that is under test. It is built
// anew when the spec, its packages or the code that builds images has changed.
func builderImage(ctx context.Context, rep *progress.Reporter, e edition) (string, error) {
	stage := rep.Stage("resolve")
	defer stage.Fail() // of no effect after Done
	l, err := image.Resolve(ctx, stage, e.spec, cache.Dir())
	if err != nil {
		return "", err
	}
	stage.Done("image %s %s, %d packages", e.spec.Name, e.version, len(l.Packages))
	sources, err := digestTrees("image", "scripts")
	if err != nil {
		return "", err
	}
	made := e.spec
	made.Concurrency, made.SSH, made.Limits, made.Cache, made.GitMirror = 0, spec.SSH{}, spec.Limits{}, 0, "" // are of the units only
	dist := filepath.Join(cache.Dir(), "images", digest(l.Packages, made, e.version, sources), "dist")
	return dist, once(ctx, filepath.Dir(dist), filepath.Join(dist, sums.Name), func() error {
		_, err := image.Build(ctx, rep, image.Options{Spec: e.spec, Version: e.version, Lock: &l, Out: dist, Cache: cache.Dir()})
		return err
	})
}

// binary compiles the magefile into a program that needs nothing but a kernel.
func binary(ctx context.Context, rep *progress.Reporter) (string, error) {
	sources, err := digestTrees("magefile.go", "go.sum", "harness", "units", "image", "scripts")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache.Dir(), "bin", sources)
	path := filepath.Join(dir, "ephemeral-builder")
	return path, once(ctx, dir, path, func() error {
		stage := rep.Stage("compile")
		defer stage.Fail() // of no effect after Done
		partial := path + ".partial"
		if err := deb.Compile(ctx, partial); err != nil {
			return err
		}
		stage.Done("%s", path)
		return os.Rename(partial, path)
	})
}

// debianPackage is that of a program, beside it in the cache.
func debianPackage(ctx context.Context, rep *progress.Reporter, program string) (string, error) {
	dir := filepath.Dir(program)
	path := filepath.Join(dir, "lab.deb")
	return path, once(ctx, dir, path, func() error {
		made, err := deb.Make(ctx, rep, deb.Options{Version: "1", Out: dir, Program: program})
		if err != nil {
			return err
		}
		return os.Rename(made, path)
	})
}

// realRunner is the path of this machine's gitlab-runner, or empty.
func realRunner() string {
	path, err := exec.LookPath("gitlab-runner")
	if err != nil {
		return ""
	}
	return path
}

// program compiles a program that takes part in the lab.
func program(ctx context.Context, name, pkg string) (string, error) {
	sources, err := digestTrees("go.sum", "harness/gitlab", "image/command")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache.Dir(), "bin", name+"-"+sources)
	path := filepath.Join(dir, name)
	return path, once(ctx, dir, path, func() error {
		partial := path + ".partial"
		if err := command.Run(ctx, command.Cmd{Args: []string{"go", "build", "-trimpath", "-o", partial, pkg}, Env: []string{"CGO_ENABLED=0"}}); err != nil {
			return err
		}
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
	cache.Touch(dir)
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
