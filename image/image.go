// Package image builds images: from a spec to a versioned rootfs tarball with its
// manifest, listed in the SHA256SUMS of a folder.
package image

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"ephemeral-builder/image/archive"
	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/rootfs"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/image/sums"
	"ephemeral-builder/scripts"
)

//go:embed sshd_config
var sshdConfig []byte

// LibDir is where an image keeps what its units start.
const LibDir = "/usr/lib/ephemeral-builder"

// Options says what to build and where to put it.
type Options struct {
	Spec    spec.Spec
	Version string    // part of the file name; see [CheckVersion]
	Epoch   time.Time // latest time stamp of any file; zero: the Date of the suite's Release file
	Out     string    // folder of the results, made if absent
	Cache   string    // folder for downloads, logs and work in progress, made if absent
}

// Image is a finished build.
type Image struct {
	Tarball  string // path of NAME_VERSION_ARCH.tar.zst
	Manifest string // path of NAME_VERSION_ARCH.manifest.json
}

// Build makes the image and reports its stages to rep. The results appear in o.Out
// complete or not at all; an image of the same name and version is replaced.
func Build(ctx context.Context, rep *progress.Reporter, o Options) (Image, error) {
	if err := CheckVersion(o.Version); err != nil {
		return Image{}, err
	}
	arch, err := HostArch()
	if err != nil {
		return Image{}, err
	}
	if err := rootfs.Ready(ctx, rep); err != nil {
		return Image{}, err
	}
	if _, err := sums.Read(o.Out); err != nil && !errors.Is(err, sums.ErrNoSums) {
		return Image{}, err // before the work, and not after it
	}
	stage := rep.Stage("resolve")
	stage.Detail("asking the mirror for suite %s", o.Spec.Suite)
	release, err := rootfs.Resolve(ctx, o.Spec.Mirror, o.Spec.Suite)
	if err != nil {
		stage.Fail()
		return Image{}, err
	}
	stage.Done("%s is %s of %s", release.Suite, release.Codename, release.Date)
	if o.Epoch.IsZero() {
		if o.Epoch, err = time.Parse(time.RFC1123, release.Date); err != nil {
			return Image{}, fmt.Errorf("the mirror's Release file has no usable date: set SOURCE_DATE_EPOCH: %w", err)
		}
	}

	manifest := Manifest{
		Name: o.Spec.Name, Version: o.Version, Architecture: arch.Systemd,
		Suite: release.Suite, Codename: release.Codename, ReleaseDate: release.Date, Mirror: release.Mirror,
		SourceDateEpoch: o.Epoch.Unix(), Spec: o.Spec,
	}
	stem := manifest.Stem()
	work, done, err := workDir(ctx, o.Cache, stem)
	if err != nil {
		return Image{}, err
	}
	defer done()
	for _, dir := range []string{o.Out, filepath.Join(o.Cache, "log")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return Image{}, err
		}
	}

	tree := filepath.Join(work, "tree")
	if err := rootfs.Make(ctx, rep, tree, rootfs.Options{
		Release:   release,
		Arch:      arch.Debian,
		Packages:  o.Spec.Packages,
		Customize: []string{"builder-customize", fmt.Sprint(o.Spec.User.UID), fmt.Sprint(o.Spec.User.GID)},
		Epoch:     o.Epoch,
		Debs:      filepath.Join(o.Cache, "debs"),
		Log:       filepath.Join(o.Cache, "log", stem+".log"),
	}); err != nil {
		return Image{}, err
	}
	if err := addLib(tree); err != nil {
		return Image{}, err
	}
	if manifest.Packages, err = rootfs.Packages(ctx, tree); err != nil {
		return Image{}, err
	}
	img := Image{
		Tarball:  filepath.Join(o.Out, stem+".tar.zst"),
		Manifest: filepath.Join(o.Out, stem+".manifest.json"),
	}
	if err := publish(ctx, rep, tree, img, manifest, o.Epoch); err != nil {
		return Image{}, err
	}
	return img, nil
}

// publish packs the tree beside itself and moves the results to their names.
func publish(ctx context.Context, rep *progress.Reporter, tree string, img Image, manifest Manifest, epoch time.Time) (err error) {
	stage := rep.Stage("pack")
	defer stage.Fail() // of no effect after Done
	// Not in the results' folder: what a killed build leaves here is found and removed.
	packed := tree + ".tar.zst"
	file, err := os.Create(packed)
	if err != nil {
		return err
	}
	defer file.Close()
	summary, err := archive.Pack(ctx, tree, file, archive.Options{Epoch: epoch, Progress: stage.Set})
	if err == nil {
		err = errors.Join(file.Chmod(0o644), file.Sync())
	}
	if err != nil {
		return fmt.Errorf("packing %s: %w", tree, err)
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	manifest.Tar = Tar{SHA256: summary.TarSHA256, Size: summary.TarSize}
	text, err := json.MarshalIndent(manifest, "", "  ")
	if err != nil {
		return err
	}

	// From here on it takes a second, which Ctrl-C does not cut. Killed in between,
	// SHA256SUMS does not match, install refuses the image, and the next build mends it.
	ctx = context.WithoutCancel(ctx)
	_, absent := os.Lstat(img.Tarball)
	defer func() {
		if err != nil && absent != nil { // say, a full disk: an image without its sum would hide older ones
			_ = os.Remove(img.Tarball)
			_ = os.Remove(img.Manifest)
		}
	}()
	if err := move(packed, img.Tarball); err != nil {
		return err
	}
	if err := atomicfile.Write(img.Manifest, append(text, '\n'), 0o644); err != nil {
		return err
	}
	if err := sums.Update(ctx, filepath.Dir(img.Tarball), filepath.Base(img.Tarball), filepath.Base(img.Manifest)); err != nil {
		return err
	}
	stage.Done("%d files, %d MiB, %d MiB compressed", summary.Entries, summary.TarSize>>20, info.Size()>>20)
	return nil
}

// move renames a file, or copies it where it goes to another file system. The new name
// appears with all of the contents.
func move(from, to string) error {
	err := os.Rename(from, to)
	if !errors.Is(err, syscall.EXDEV) {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := atomicfile.Create(to, 0o644)
	if err != nil {
		return err
	}
	defer out.Cleanup()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.CloseAtomicallyReplace()
}

// addLib puts the entrypoint and sshd's configuration into the tree.
func addLib(tree string) error {
	dir := filepath.Join(tree, LibDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	entrypoint, err := scripts.FS.ReadFile("entrypoint")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "entrypoint"), entrypoint, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "sshd_config"), sshdConfig, 0o644)
}

// workDir makes the empty, locked folder of one build below the cache. It waits for
// another build of the same image, and removes what killed builds left behind.
func workDir(ctx context.Context, cache, stem string) (dir string, done func(), err error) {
	root := filepath.Join(cache, "work")
	if err := sweep(root); err != nil {
		return "", nil, fmt.Errorf("removing what a killed build left: %w", err)
	}
	dir = filepath.Join(root, stem)
	unlock, err := dirlock.Make(ctx, dir)
	if err != nil {
		return "", nil, err
	}
	return dir, func() {
		os.RemoveAll(dir)
		unlock()
	}, nil
}

// sweep removes the folders in root that nobody has locked.
func sweep(root string) error {
	left, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, entry := range left {
		dir := filepath.Join(root, entry.Name())
		unlock, ok, err := dirlock.TryLock(dir)
		if err != nil || !ok {
			continue // gone meanwhile, or at work
		}
		err = os.RemoveAll(dir)
		unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// Arch names one architecture in the two ways in use.
type Arch struct {
	Debian  string // "amd64", as dpkg has it
	Systemd string // "x86-64", as systemd's ConditionArchitecture= has it, in file names
}

// HostArch is the architecture this program runs on.
func HostArch() (Arch, error) {
	switch runtime.GOARCH {
	case "amd64":
		return Arch{"amd64", "x86-64"}, nil
	case "arm64":
		return Arch{"arm64", "arm64"}, nil
	}
	return Arch{}, fmt.Errorf("architecture %s is not supported: use amd64 or arm64", runtime.GOARCH)
}

// CheckVersion says whether version can stand in a file name between underscores:
// letters, digits and . ~ ^ + -, as in the UAPI group's version format specification.
func CheckVersion(version string) error {
	if !regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.~^+-]*$`).MatchString(version) {
		return fmt.Errorf("version %q can't be part of a file name: use letters, digits and . ~ ^ + -, such as 20260102150405", version)
	}
	return nil
}

// CommitVersion is the default version of what is built from the git checkout around
// dir: the UTC time of its current commit, as YYYYMMDDHHMMSS, and that time.
func CommitVersion(ctx context.Context, dir string) (string, time.Time, error) {
	out, err := command.Output(ctx, command.Cmd{Args: []string{"git", "-C", dir, "log", "-1", "--format=%ct"}})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("no version: %s is in no git checkout with a commit: say -version=VERSION: %w", dir, err)
	}
	epoch, err := ParseEpoch(strings.TrimSpace(string(out)))
	if err != nil {
		return "", time.Time{}, err
	}
	return epoch.Format("20060102150405"), epoch, nil
}
