package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/sums"
)

// publish moves files that are called PREFIX.something to stem.something, and lists them
// in the SHA256SUMS there. The tarball is the last of them, as by it an image is found.
func publish(ctx context.Context, files []string, prefix, stem string) (err error) {
	if err := os.MkdirAll(filepath.Dir(stem), 0o755); err != nil {
		return err
	}
	// From here on it takes a second, which Ctrl-C does not cut. Killed in between,
	// SHA256SUMS does not match, install refuses the image, and the next build mends it.
	ctx = context.WithoutCancel(ctx)
	var published []string
	_, absent := os.Lstat(stem + tarballSuffix)
	defer func() {
		if errors.Is(err, syscall.ENOSPC) {
			err = fmt.Errorf("%w: free some space there, or name another folder with -out", err)
		}
		if err != nil && absent != nil { // say, a full disk: an image without its sum would hide older ones
			for _, name := range published {
				_ = os.Remove(filepath.Join(filepath.Dir(stem), name))
			}
		}
	}()
	for _, file := range files {
		to := stem + strings.TrimPrefix(file, prefix)
		if err := move(file, to); err != nil {
			return err
		}
		published = append(published, filepath.Base(to))
	}
	return sums.Update(ctx, filepath.Dir(stem), published...)
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
