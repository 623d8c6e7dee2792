// Package image builds images: from a spec to a versioned rootfs tarball with the files
// that describe it, listed in the SHA256SUMS of a folder.
package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"ephemeral-builder/image/archive"
	"ephemeral-builder/image/cache"
	"ephemeral-builder/image/inventory"
	"ephemeral-builder/image/lint"
	"ephemeral-builder/image/lock"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/rootfs"
	"ephemeral-builder/image/space"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/image/sums"
)

// LibDir is where an image keeps what its units start.
const LibDir = "/usr/lib/ephemeral-builder"

// Options says what to build and where to put it.
type Options struct {
	Spec    spec.Spec
	Version string     // part of the file name; see [CheckVersion]
	Lock    *lock.Lock // exactly these packages; nil: what the mirror has today
	Epoch   time.Time  // latest time stamp of any file; zero: the time of the newest package
	Out     string     // folder of the results, made if absent
	Cache   string     // folder for downloads, logs and work in progress, made if absent
	Commit  string     // git commit of this program, for the provenance; empty if unknown
	Clock   string     // FAKETIME for all programs of the build, see faketime(1); empty: the real time
}

// Image is a finished build: the stem of its files' paths, DIR/NAME_VERSION_ARCH.
type Image struct {
	Tarball  string // path of NAME_VERSION_ARCH.tar.zst
	Manifest string // path of NAME_VERSION_ARCH.manifest.json
}

// builder is one build on its way.
type builder struct {
	Options
	rep    *progress.Reporter
	arch   Arch
	inputs spec.Inputs
	digest string // of what the spec refers to
	lock   lock.Lock
}

// Build makes the image and reports its stages to rep. The results appear in o.Out
// complete or not at all; an image of the same name and version is replaced. If all that
// goes into it is as it was, and the results are as they were, it does nothing and says so.
func Build(ctx context.Context, rep *progress.Reporter, o Options) (Image, error) {
	if err := CheckVersion(o.Version); err != nil {
		return Image{}, err
	}
	b := builder{Options: o, rep: rep}
	var err error
	if b.arch, err = ArchOf(o.Spec); err != nil {
		return Image{}, err
	}
	if b.inputs, err = o.Spec.Inputs(); err != nil {
		return Image{}, err
	}
	if b.digest, err = b.inputs.Digest(ctx); err != nil {
		return Image{}, err
	}
	if err := rootfs.Ready(ctx, rep, b.arch.Debian); err != nil {
		return Image{}, err
	}
	if _, err := sums.Read(o.Out); err != nil && !errors.Is(err, sums.ErrNoSums) {
		return Image{}, err // before the work, and not after it
	}
	done, err := cache.Use(ctx, o.Cache)
	if err != nil {
		return Image{}, err
	}
	defer done()
	indexes, err := b.indexes(ctx)
	if err != nil {
		return Image{}, err
	}
	key, err := b.key(indexes)
	if err != nil {
		return Image{}, err
	}
	img := b.image(o.Out)
	if b.unchanged(ctx, key) {
		rep.Note("nothing has changed since this was built")
		return img, nil
	}
	if err := b.resolve(ctx); err != nil {
		return Image{}, err
	}
	err = Download(ctx, rep, b.lock, filepath.Join(o.Cache, "debs"))
	if errors.Is(err, fs.ErrNotExist) && o.Lock != nil {
		err = fmt.Errorf("the archive no longer has what the lock names: name a mirror in the spec that keeps old packages, or build without the lock:\n%w", err)
	}
	if err != nil {
		return Image{}, err
	}
	if err := b.make(ctx); err != nil {
		return Image{}, err
	}
	return img, b.remember(key)
}

// make builds the image from packages that are in the cache.
func (b *builder) make(ctx context.Context) (err error) {
	work, done, err := workDir(ctx, b.Cache, b.stem())
	if err != nil {
		return err
	}
	defer done()
	if err := os.MkdirAll(filepath.Join(b.Cache, "log"), 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(b.Cache, "log", b.stem()+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w\n%sthe whole log is in %s", err, rootfs.FullDisk(work), log.Name())
		}
	}()
	s, err := space.Start(ctx, b.Clock)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := rootfs.Foreign(ctx, s, b.arch.Debian); err != nil {
		return err
	}
	dir := filepath.Join(work, "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	tree, newest, err := rootfs.Base(ctx, b.rep, s, rootfs.Options{
		Lock: b.lock, Debs: filepath.Join(b.Cache, "debs"), Stages: filepath.Join(b.Cache, "stages"), Dir: dir, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close(context.WithoutCancel(ctx))) }()
	if b.Epoch.IsZero() {
		b.Epoch = newest
	}
	if b.Epoch.After(time.Now()) {
		return fmt.Errorf("SOURCE_DATE_EPOCH is %s, in the future: files that the build makes would keep their own times: use one in the past", b.Epoch.UTC().Format(time.RFC3339))
	}
	if err := b.customize(ctx, tree, newest); err != nil {
		return err
	}
	return b.pack(ctx, tree, filepath.Join(work, "image"))
}

// customize makes a bare Debian tree a builder's.
func (b *builder) customize(ctx context.Context, tree *rootfs.Tree, epoch time.Time) (err error) {
	stage := b.rep.Stage("customize")
	defer stage.Fail() // of no effect after Done
	user := b.Spec.User
	stage.Detail("builder-customize")
	if err := tree.Script(ctx, epoch, "builder-customize", fmt.Sprint(user.UID), fmt.Sprint(user.GID), string(b.Spec.Root)); err != nil {
		return err
	}
	if err := overlay(ctx, tree, epoch, writeLib); err != nil {
		return err
	}
	if b.Spec.Files != "" {
		stage.Detail("laying %s over it", b.Spec.Files)
		if err := overlay(ctx, tree, epoch, b.inputs.WriteFiles); err != nil {
			return err
		}
		if err := tree.Script(ctx, epoch, "template-own"); err != nil {
			return err
		}
	}
	for _, hook := range b.inputs.Hooks {
		stage.Detail("hook %s", hook.Name)
		if err := tree.Hook(ctx, epoch, hook.Name, hook.Content); err != nil {
			return err
		}
	}
	stage.Detail("tree-clean")
	if err := tree.Script(ctx, epoch, "tree-clean"); err != nil {
		return err
	}
	stage.Done("")
	return nil
}

// pack streams the tree into files beside path, judges and describes what it saw, and
// publishes the lot.
func (b *builder) pack(ctx context.Context, tree *rootfs.Tree, path string) error {
	stage := b.rep.Stage("pack")
	defer stage.Fail() // of no effect after Done
	file, err := os.Create(path + tarballSuffix)
	if err != nil {
		return err
	}
	defer file.Close()
	setuid := b.Spec.Setuid
	if b.Spec.Root == spec.RootSudo {
		setuid = append(slices.Clone(setuid), "/usr/bin/sudo")
	}
	rules := lint.New(lint.Rules{UID: b.Spec.User.UID, GID: b.Spec.User.GID, Setuid: setuid})
	contents := inventory.New()
	sum := sha256.New()
	summary, err := stream(ctx, tree.Write, func(r io.Reader) (archive.Summary, error) {
		return archive.Pack(ctx, r, io.MultiWriter(file, sum), archive.Options{
			Epoch: b.Epoch, Progress: stage.Set, Visit: []archive.Visitor{rules.Visit, contents.Visit},
		})
	})
	if err == nil {
		err = file.Chmod(0o644)
	}
	if err != nil {
		return fmt.Errorf("packing the tree: %w", err)
	}
	if err := rules.Findings(); err != nil {
		return fmt.Errorf("the image must not be published:\n%w", err)
	}
	stage.Detail("describing it")
	info, err := file.Stat()
	if err != nil {
		return err
	}
	var disk errgroup.Group
	disk.Go(file.Sync)
	compressed := File{hex.EncodeToString(sum.Sum(nil)), info.Size()}
	described, err := b.describe(ctx, path, summary, compressed, contents)
	if err := errors.Join(err, disk.Wait()); err != nil {
		return err
	}
	if err := publish(ctx, append(described, path+tarballSuffix), path, filepath.Join(b.Out, b.stem())); err != nil {
		return err
	}
	stage.Done("%d files, %d MiB, %d MiB compressed", summary.Entries, summary.TarSize>>20, compressed.Size>>20)
	return nil
}
