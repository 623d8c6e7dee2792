// Package bench measures how long things take, side by side with what others use for the
// same purpose, so that anybody can check on their own machine what the README says.
//
// [Build] compares a cold build of an image with mmdebstrap. Both make a .tar.zst of the
// same packages from files that are on this machine, and their packages are compared
// afterwards: a comparison of different systems would be void. What is the same for both,
// and what is not:
//
//   - The packages are decided once, before anything is measured. Ours gets them as a
//     lock. mmdebstrap gets a file:// repository that has them and no others, mounted into
//     the chroot by the hook file-mirror-automount: the way without a network that
//     mmdebstrap(1) describes. It names them all with --include.
//   - Both run in a [space.Space], so in the same namespaces, and unpack into the tree that
//     [rootfs.New] makes, which is a tmpfs wherever memory allows. In there mmdebstrap is
//     in its mode root, as in its mode unshare it would make the same namespaces again.
//   - Both compress with zstd at level 3 on all cores. mmdebstrap starts zstd, which takes
//     one core unless ZSTD_NBTHREADS says otherwise, so it does.
//   - Both get the same SOURCE_DATE_EPOCH, and all packages have been read once before.
//   - Ours does more in its time: it adds the builder's user, judges and describes the
//     image, and keeps the bootstrapped stage for the next build.
//
// Runs are interleaved, and each ratio is of two runs that came one after the other, so
// that a machine that is busy or throttled slows both.
package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"ephemeral-builder/image"
	"ephemeral-builder/image/cache"
	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/image/lock"
	"ephemeral-builder/image/prereq"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/rootfs"
	"ephemeral-builder/image/spec"
)

// Options says what to measure.
type Options struct {
	Spec spec.Spec
	Runs int    // of each kind, at least 1; 3 make a median
	Out  string // folder for bench-build.json and bench-build.html, made if absent
}

// builds is one run of the benchmark on its way.
type builds struct {
	Options
	rep   *progress.Reporter
	lock  lock.Lock
	cache string // of the user, for packages and lists
	work  string // folder of our own, on the same disk
	debs  rootfs.Debs
}

// Build measures builds of a spec and shows a table of them. Each of o.Runs rounds has a
// cold build, mmdebstrap, a build with another user only, and one for which nothing has
// changed. The last two ask the mirror for news, as they do in daily life.
func Build(ctx context.Context, rep *progress.Reporter, o Options) error {
	if o.Runs < 1 {
		return fmt.Errorf("%d runs have no median: ask for at least 1", o.Runs)
	}
	arch, err := image.ArchOf(o.Spec)
	if err != nil {
		return err
	}
	if arch.Debian != runtime.GOARCH {
		return fmt.Errorf("the spec is for %s: emulation would be most of what is measured: use a spec for %s", arch.Debian, runtime.GOARCH)
	}
	if err := prereq.Ensure(ctx, rep, prereq.Need{Program: "mmdebstrap", Package: "mmdebstrap"}, prereq.Need{Program: "zstd", Package: "zstd"}); err != nil {
		return err
	}
	if err := rootfs.Ready(ctx, rep, arch.Debian); err != nil {
		return err
	}
	b := builds{Options: o, rep: rep, cache: cache.Dir()}
	done, err := cache.Use(ctx, b.cache)
	if err != nil {
		return err
	}
	defer done()
	// A folder in which builds work: the next one sweeps what a killed benchmark leaves.
	b.work = filepath.Join(b.cache, "work", "bench-build")
	unlock, err := dirlock.Make(ctx, b.work)
	if err != nil {
		return err
	}
	defer unlock()
	defer rootfs.Remove(context.WithoutCancel(ctx), b.work)
	if err := b.prepare(ctx); err != nil {
		return err
	}
	result, err := b.measure(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return err
	}
	if err := Write(filepath.Join(o.Out, "bench-build"), result, result.page); err != nil {
		return err
	}
	rep.Note("%s\n%s", result.Text(), filepath.Join(o.Out, "bench-build.html"))
	return nil
}

// prepare decides on the packages and brings them here.
func (b *builds) prepare(ctx context.Context) (err error) {
	stage := b.rep.Stage("resolve")
	defer stage.Fail() // of no effect after Done
	if b.lock, err = image.Resolve(ctx, stage, b.Spec, b.cache); err != nil {
		return err
	}
	stage.Done("%d packages", len(b.lock.Packages))
	folder := filepath.Join(b.cache, "debs")
	if err := image.Download(ctx, b.rep, b.lock, folder); err != nil {
		return err
	}
	if b.debs, err = rootfs.OpenDebs(folder, b.lock); err != nil {
		return err
	}
	return writeMirror(ctx, b.path("mirror"), b.lock, folder)
}

func (b *builds) path(name string) string { return filepath.Join(b.work, name) }

// measure makes all runs.
func (b *builds) measure(ctx context.Context) (*Result, error) {
	versions, err := versions(ctx)
	if err != nil {
		return nil, err
	}
	machine, err := ThisMachine()
	if err != nil {
		return nil, err
	}
	result := &Result{
		Date: time.Now().UTC().Truncate(time.Second), Name: b.Spec.Name, Codename: b.lock.Sources[0].Codename,
		Architecture: b.lock.Architecture, Packages: b.lock.Entries(), Machine: machine, Versions: versions,
	}
	for _, p := range b.lock.Packages {
		result.Download += p.Size
	}
	for range b.Runs {
		round, err := b.round(ctx, len(result.Rounds)+1)
		if err != nil {
			return nil, err
		}
		result.Rounds = append(result.Rounds, round)
	}
	result.sum()
	return result, nil
}

// round makes one run of each kind.
func (b *builds) round(ctx context.Context, n int) (r Round, err error) {
	if r.Load, err = load(); err != nil {
		return r, err
	}
	if err := b.emptyCache(ctx); err != nil {
		return r, err
	}
	var img image.Image
	ours := func(name string, o image.Options) (Run, error) {
		return b.timed(ctx, fmt.Sprintf("%s %d/%d", name, n, b.Runs), func(ctx context.Context, rep *progress.Reporter, _ *steps) (path string, err error) {
			o.Version, o.Cache, o.Out, o.Epoch = "bench", b.path("cache"), b.path("dist"), b.debs.Newest
			img, err = image.Build(ctx, rep, o)
			return img.Tarball, err
		})
	}
	if r.Cold, err = ours("cold", image.Options{Spec: b.Spec, Lock: &b.lock}); err != nil {
		return r, err
	}
	if r.Mmdebstrap, err = b.timed(ctx, fmt.Sprintf("mmdebstrap %d/%d", n, b.Runs), b.mmdebstrap); err != nil {
		return r, err
	}
	if err := samePackages(ctx, img.Tarball, b.path(rival)); err != nil {
		return r, err
	}
	other := b.Spec
	other.User.UID ^= 1 // the neighbour, which is an ordinary user's too
	if r.User, err = ours("user", image.Options{Spec: other}); err != nil {
		return r, err
	}
	if r.Again, err = ours("again", image.Options{Spec: other}); err != nil {
		return r, err
	}
	if r.User.step(stepExtract)+r.Again.step(stepPack) > 0 {
		return r, errors.New("the mirror has new packages since this benchmark began, so that it built anew what should be reused: run it again")
	}
	return r, nil
}

// emptyCache makes a cache that has packages and lists, but nothing that was built.
func (b *builds) emptyCache(ctx context.Context) error {
	for _, dir := range []string{"cache", "dist"} {
		if err := rootfs.Remove(ctx, b.path(dir)); err != nil {
			return err
		}
	}
	if err := os.Mkdir(b.path("cache"), 0o755); err != nil {
		return err
	}
	for _, kind := range []string{"debs", "lists"} {
		if err := os.Symlink(filepath.Join(b.cache, kind), filepath.Join(b.path("cache"), kind)); err != nil {
			return err
		}
	}
	return nil
}

// timed measures work, which makes a file and reports either to rep or to steps what it
// does. A stage shows it.
func (b *builds) timed(ctx context.Context, name string, work func(context.Context, *progress.Reporter, *steps) (path string, err error)) (run Run, err error) {
	stage := b.rep.Stage(name)
	defer stage.Fail() // of no effect after Done
	var s steps
	rep := progress.Watch(func(e progress.Event) {
		s.next(stepOf(e), e.At)
		if !e.Ended {
			stage.Detail("%s %s", e.Stage, e.Detail)
		}
	})
	defer rep.Close()
	cpu := cpuTime()
	start := time.Now()
	s.next(stepElse, start)
	path, err := work(ctx, rep, &s)
	if err != nil {
		return run, err
	}
	end := time.Now()
	s.next("", end)
	info, err := os.Stat(path)
	if err != nil {
		return run, err
	}
	run = Run{Seconds: end.Sub(start).Seconds(), CPU: (cpuTime() - cpu).Seconds(), Size: info.Size(), Steps: s.all}
	stage.Done("%.2f s", run.Seconds)
	return run, nil
}

// samePackages compares what two tarballs have installed.
func samePackages(ctx context.Context, a, b string) error {
	ours, err := installed(ctx, a)
	if err != nil {
		return err
	}
	theirs, err := installed(ctx, b)
	if err != nil {
		return err
	}
	if !slices.Equal(ours, theirs) {
		return fmt.Errorf("the comparison is void, as mmdebstrap (new) has installed other packages than the build (old):\n%s",
			lock.Table(lock.Diff(ours, theirs)))
	}
	return nil
}
