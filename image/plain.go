package image

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"ephemeral-builder/image/archive"
	"ephemeral-builder/image/lock"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/rootfs"
	"ephemeral-builder/image/space"
)

// Plain makes a Debian system of the packages of a lock, and nothing of ours in it, and
// writes it to w as a .tar.zst. The packages are in debs, see [Download]; work is a folder
// to work in, which is removed.
func Plain(ctx context.Context, rep *progress.Reporter, l lock.Lock, debs, work string, w io.Writer) error {
	if err := rootfs.Remove(ctx, work); err != nil { // of a run that was killed
		return err
	}
	dir := filepath.Join(work, "tree")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	defer rootfs.Remove(context.WithoutCancel(ctx), work)
	log, err := os.Create(filepath.Join(filepath.Dir(work), "build.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s, err := space.Start(ctx, "")
	if err != nil {
		return err
	}
	defer s.Close()
	tree, epoch, err := rootfs.Base(ctx, rep, s, rootfs.Options{
		Lock: l, Debs: debs, Dir: dir, Log: log,
	})
	if err != nil {
		return err
	}
	defer tree.Close(context.WithoutCancel(ctx))
	stage := rep.Stage("pack")
	defer stage.Fail() // of no effect after Done
	if err := tree.Script(ctx, epoch, "tree-clean"); err != nil {
		return err
	}
	summary, err := stream(ctx, tree.Write, func(r io.Reader) (archive.Summary, error) {
		return archive.Pack(ctx, r, w, archive.Options{Epoch: time.Now(), Progress: stage.Set})
	})
	if err != nil {
		return err
	}
	stage.Done("%d MiB", summary.TarSize>>20)
	return nil
}
