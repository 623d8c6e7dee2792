package image

import (
	"archive/tar"
	"cmp"
	"context"
	"io"
	"os"
	"time"

	"ephemeral-builder/image/rootfs"
	"ephemeral-builder/scripts"

	_ "embed"
)

//go:embed sshd_config
var sshdConfig []byte

// stream lets read take what write writes. Of two errors the one that came first counts:
// the other is a broken pipe. It is a pipe of the system, so that programs write into it
// themselves.
func stream[T any](ctx context.Context, write func(context.Context, *os.File) error, read func(io.Reader) (T, error)) (T, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		return *new(T), err
	}
	defer r.Close()
	wrote := make(chan error, 1)
	go func() {
		wrote <- write(ctx, w)
		w.Close() // after which read may find the end of the file
	}()
	result, err := read(r)
	select {
	case wroteErr := <-wrote:
		return result, cmp.Or(wroteErr, err)
	default:
	}
	if err != nil {
		cancel()
		r.Close()
	}
	return result, cmp.Or(err, <-wrote)
}

// overlay lays over the tree what write writes.
func overlay(ctx context.Context, tree *rootfs.Tree, epoch time.Time, write func(context.Context, io.Writer, time.Time) error) error {
	_, err := stream(ctx,
		func(ctx context.Context, w *os.File) error { return write(ctx, w, epoch) },
		func(r io.Reader) (struct{}, error) { return struct{}{}, tree.Overlay(ctx, epoch, r) })
	return err
}

// writeLib writes what the units start, sshd's configuration, and what login shells read, as a tar.
func writeLib(_ context.Context, w io.Writer, epoch time.Time) error {
	entrypoint, err := scripts.FS.ReadFile("entrypoint")
	if err != nil {
		return err
	}
	profile, err := scripts.FS.ReadFile("profile")
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	for _, f := range []struct {
		name string
		mode int64
		text []byte
	}{
		{LibDir[1:] + "/", 0o755, nil},
		{LibDir[1:] + "/entrypoint", 0o755, entrypoint},
		{LibDir[1:] + "/sshd_config", 0o644, sshdConfig},
		{"etc/profile.d/ephemeral-builder.sh", 0o644, profile},
	} {
		if err := t.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.text)), ModTime: epoch}); err != nil {
			return err
		}
		if _, err := t.Write(f.text); err != nil {
			return err
		}
	}
	return t.Close()
}
