package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/image/rootfs"
)

// workDir makes the empty, locked folder of one build below the cache. It waits for
// another build of the same image, and removes what killed builds left behind.
func workDir(ctx context.Context, cache, stem string) (dir string, done func(), err error) {
	root := filepath.Join(cache, "work")
	if err := sweep(ctx, root); err != nil {
		return "", nil, fmt.Errorf("removing what a killed build left: %w", err)
	}
	dir = filepath.Join(root, stem)
	unlock, err := dirlock.Make(ctx, dir)
	if err != nil {
		return "", nil, err
	}
	return dir, func() {
		_ = rootfs.Remove(context.WithoutCancel(ctx), dir) // else the next build does
		unlock()
	}, nil
}

// sweep removes the folders in root that nobody has locked.
func sweep(ctx context.Context, root string) error {
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
		err = rootfs.Remove(ctx, dir)
		unlock()
		if err != nil {
			return err
		}
	}
	return nil
}
