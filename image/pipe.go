package image

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"time"

	"ephemeral-builder/image/rootfs"
	"ephemeral-builder/scripts"

	_ "embed"
)

//go:embed sshd_config
var sshdConfig []byte

type pipe = *io.PipeReader

// stream lets read take what write writes. Of two errors the one that came first counts:
// the other is a broken pipe.
func stream[T any](ctx context.Context, write func(context.Context, io.Writer) error, read func(pipe) (T, error)) (T, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	wrote := make(chan error, 1)
	go func() {
		err := write(ctx, w)
		w.CloseWithError(err) // nil is the end of the file
		wrote <- err
	}()
	result, err := read(r)
	if err != nil {
		r.CloseWithError(err)
		cancel()
	}
	if wroteErr := <-wrote; wroteErr != nil && (err == nil || errors.Is(err, wroteErr)) {
		err = wroteErr
	}
	return result, err
}

// overlay lays over the tree what write writes.
func overlay(ctx context.Context, tree *rootfs.Tree, epoch time.Time, write func(context.Context, io.Writer, time.Time) error) error {
	_, err := stream(ctx,
		func(ctx context.Context, w io.Writer) error { return write(ctx, w, epoch) },
		func(r pipe) (struct{}, error) { return struct{}{}, tree.Overlay(ctx, epoch, r) })
	return err
}

// writeLib writes what the units start, and sshd's configuration, as a tar.
func writeLib(_ context.Context, w io.Writer, epoch time.Time) error {
	entrypoint, err := scripts.FS.ReadFile("entrypoint")
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
