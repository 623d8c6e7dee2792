package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ephemeral-builder/image/apt"
	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/cache"
	"ephemeral-builder/image/fetch"
	"ephemeral-builder/image/lock"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/rootfs"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/image/sums"
)

// Resolve asks the mirror which packages an image of a spec would have today.
func Resolve(ctx context.Context, stage *progress.Stage, s spec.Spec, cacheDir string) (lock.Lock, error) {
	arch, err := ArchOf(s)
	if err != nil {
		return lock.Lock{}, err
	}
	sources, err := sourcesOf(ctx, s)
	if err != nil {
		return lock.Lock{}, err
	}
	l, _, err := apt.Resolve(ctx, stage, apt.Options{
		Sources: sources, Arch: arch.Debian, Packages: s.Packages, Dir: filepath.Join(cacheDir, "lists"),
	})
	return l, err
}

// sourcesOf are the archives of a spec, its mirror first.
func sourcesOf(ctx context.Context, s spec.Spec) ([]apt.Source, error) {
	inputs, err := s.Inputs()
	if err != nil {
		return nil, err
	}
	mirror := s.Mirror
	if mirror == "" {
		if mirror, err = apt.DefaultMirror(ctx); err != nil {
			return nil, err
		}
	}
	sources := []apt.Source{{URI: mirror, Suite: s.Suite, Components: []string{"main"}}}
	for i, extra := range s.Sources {
		sources = append(sources, apt.Source{URI: extra.URI, Suite: extra.Suite, Components: extra.Components, Key: inputs.Keys[i]})
	}
	return sources, nil
}

// resolve finds the packages: those of the given lock, or what the mirror has today.
func (b *builder) resolve(ctx context.Context) (err error) {
	if b.Lock != nil {
		if b.Lock.Architecture != b.arch.Debian {
			return fmt.Errorf("the lock is for %s, the spec for %s: use the lock of that image", b.Lock.Architecture, b.arch.Debian)
		}
		var missing []string
		for _, name := range b.Spec.Packages {
			if !slices.ContainsFunc(b.Lock.Packages, func(p lock.Package) bool { return p.Name == name }) {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("the lock has no %s, which the spec wants: use the lock of this spec, or build without one", strings.Join(missing, ", "))
		}
		b.lock = *b.Lock
		return nil
	}
	stage := b.rep.Stage("resolve")
	defer stage.Fail() // of no effect after Done
	if b.lock, err = Resolve(ctx, stage, b.Spec, b.Cache); err != nil {
		return err
	}
	debian := b.lock.Sources[0]
	stage.Done("%s is %s of %s, %d packages", debian.Suite, debian.Codename, debian.Date, len(b.lock.Packages))
	return nil
}

// Download brings the packages of a lock into a folder, several at once, under the names
// that [rootfs.DebName] gives.
func Download(ctx context.Context, rep *progress.Reporter, l lock.Lock, dir string) error {
	stage := rep.Stage("download")
	defer stage.Fail() // of no effect after Done
	proxy, err := apt.Proxy(ctx)
	if err != nil {
		return err
	}
	var files []fetch.File
	var size int64
	for _, p := range l.Packages {
		path := filepath.Join(dir, rootfs.DebName(p))
		if _, err := os.Stat(path); err == nil {
			cache.Touch(path)
			continue
		}
		files = append(files, fetch.File{URL: l.URL(p), Path: path, Size: p.Size, SHA256: p.SHA256})
		size += p.Size
	}
	if err := fetch.All(ctx, files, fetch.Options{Proxy: proxy, Progress: func(done, total int64) {
		stage.Total(total)
		stage.Set(done)
		stage.Detail("%d of %d MiB", done>>20, total>>20)
	}}); err != nil {
		return err
	}
	stage.Done("%d packages, %d MiB", len(files), size>>20)
	return nil
}

// indexes are the digests of the archives' signed indexes as they are now, from which the
// packages follow; none with a lock.
func (b *builder) indexes(ctx context.Context) ([]string, error) {
	if b.Lock != nil {
		return nil, nil
	}
	sources, err := sourcesOf(ctx, b.Spec)
	if err != nil {
		return nil, err
	}
	releases, err := apt.Releases(ctx, sources)
	if err != nil {
		return nil, err
	}
	digests := make([]string, len(releases))
	for i, release := range releases {
		digests[i] = sources[i].URI + " " + release.SHA256
	}
	return digests, nil
}

// key is a digest of all that goes into the image and its description: what the packages
// follow from, and this program too.
func (b *builder) key(indexes []string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	program, err := hashFile(self)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal([]any{b.Spec, b.arch, b.digest, b.Lock, indexes, b.Version, b.Epoch, b.Commit, b.Clock, program})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), nil
}

func hashFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// unchanged tells whether a build with this key has made the image that is there.
func (b *builder) unchanged(ctx context.Context, key string) bool {
	path := filepath.Join(b.Cache, "results", key)
	text, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	var made map[string]string
	if json.Unmarshal(text, &made) != nil {
		return false
	}
	listed, err := sums.Read(b.Out)
	if err != nil {
		return false
	}
	for name, sum := range made {
		if listed[name] != sum || sums.Verify(ctx, b.Out, name) != nil {
			return false
		}
	}
	cache.Touch(path)
	return len(made) > 0
}

// remember notes what a build with this key has made.
func (b *builder) remember(key string) error {
	listed, err := sums.Read(b.Out)
	if err != nil {
		return err
	}
	made := map[string]string{}
	for name, sum := range listed {
		if strings.HasPrefix(name, b.stem()+".") {
			made[name] = sum
		}
	}
	text, err := json.Marshal(made)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.Cache, "results")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, key), text, 0o644)
}
