package release

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/sums"
)

// place puts the files of one image into work, and makes those that a build does not have.
func (p *planned) place(ctx context.Context, rep *progress.Reporter, work string, b *build) error {
	if b.dir == p.Out {
		for name, sum := range b.files {
			p.sums[name] = sum
			if err := link(ctx, filepath.Join(p.Out, name), filepath.Join(work, name), sum); err != nil {
				return err
			}
		}
	}
	xz, notes := b.stem+".tar.xz", b.stem+".md"
	if built := p.built[b.stem]; built != nil {
		for _, name := range slices.Sorted(maps.Keys(built.files)) {
			// Whoever made a .tar.xz there, ours has the contents that the manifest tells.
			if p.sums[name] != "" || name == xz {
				continue
			}
			p.sums[name] = built.files[name]
			if err := copyFile(ctx, filepath.Join(built.dir, name), filepath.Join(work, name), p.sums[name]); err != nil {
				return err
			}
		}
	}
	if p.sums[xz] == "" {
		var err error
		if p.sums[xz], err = recompress(ctx, rep, work, b); err != nil {
			return err
		}
	}
	if p.sums[notes] == "" {
		return os.WriteFile(filepath.Join(work, notes), releaseNotes(b, p.before[b.stem]), 0o644)
	}
	return nil
}

// link gives a published file its name in the new folder. Where the file system has no
// hard links, or the file too many, it is copied.
func link(ctx context.Context, from, to, sum string) error {
	err := os.Link(from, to)
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EMLINK) {
		return err
	}
	if target, err := os.Readlink(from); err == nil {
		return os.Symlink(target, to)
	}
	return copyFile(ctx, from, to, sum)
}

// copyFile copies a file. Unless its sum is unknown, it must still be right.
func copyFile(ctx context.Context, from, to, sum string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(out, h), reader{ctx, in}); err != nil {
		return fmt.Errorf("copying %s: %w", from, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); sum != "" && got != sum {
		return fmt.Errorf("%s: %w (got %s, want %s): something writes to it: start again when that is over", from, sums.ErrMismatch, got, sum)
	}
	return out.Close()
}

// digest returns the SHA-256 of a regular file in lower-case hex digits.
func digest(ctx context.Context, path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is neither a file nor a folder: leave it out", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, reader{ctx, f}); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}
