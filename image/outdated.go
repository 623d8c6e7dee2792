package image

import (
	"context"
	"fmt"
	"os"
	"strings"

	"ephemeral-builder/image/lock"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/spec"
)

// Outdated tells in which packages an image that was built today would differ from an
// earlier one: since is a lock, a manifest, or a folder with images, of which the newest
// counts. cacheDir is as in [Options].
func Outdated(ctx context.Context, rep *progress.Reporter, s spec.Spec, since, cacheDir string) ([]lock.Change, error) {
	arch, err := ArchOf(s)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(since)
	if err != nil {
		return nil, fmt.Errorf("nothing to compare with: name a lock, a manifest or a folder with images: %w", err)
	}
	if info.IsDir() {
		img, err := Find(since, s.Name, "", arch.Systemd)
		if err != nil {
			return nil, err
		}
		since = img.Manifest
	}
	var old []lock.Entry
	if strings.HasSuffix(since, lockSuffix) {
		l, err := lock.Read(since)
		if err != nil {
			return nil, err
		}
		old = l.Entries()
	} else {
		manifest, err := ReadManifest(since)
		if err != nil {
			return nil, err
		}
		if manifest.Name != s.Name {
			return nil, fmt.Errorf("%s is of %s, the spec of %s: name one of the same image", since, manifest.Name, s.Name)
		}
		for _, p := range manifest.Packages {
			old = append(old, lock.Entry(p))
		}
	}
	stage := rep.Stage("resolve")
	defer stage.Fail() // of no effect after Done
	l, err := Resolve(ctx, stage, s, cacheDir)
	if err != nil {
		return nil, err
	}
	stage.Done("%d packages, compared with %s", len(l.Packages), since)
	return lock.Diff(old, l.Entries()), nil
}
