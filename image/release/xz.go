package release

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"ephemeral-builder/image/archive"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/progress"
)

// recompress makes the .tar.xz in work from the .tar.zst there, and returns its SHA-256.
// The tar that passes must be the one that the manifest tells of.
//
// Level 6, xz's own default: of an image of 641 MB it leaves 158 MB, where zstd left 216.
// Level 3 takes a third of the time and leaves 176, level 9 twice the time and leaves 138,
// but asks for over 1 GB of memory per thread.
func recompress(ctx context.Context, rep *progress.Reporter, work string, b *build) (sum string, err error) {
	stage := rep.Stage("xz")
	defer stage.Fail()
	stage.Detail("%s", b.stem)
	stage.Total(b.manifest.Tar.Size)

	path := filepath.Join(work, b.stem+".tar.zst")
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	z, err := zstd.NewReader(reader{ctx, in})
	if err != nil {
		return "", err
	}
	defer z.Close()
	out, err := os.OpenFile(filepath.Join(work, b.stem+".tar.xz"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return "", err
	}
	defer out.Close()

	tar := &counter{to: sha256.New(), progress: stage.Set}
	xz := &counter{to: sha256.New()}
	stdin := &keeper{r: io.TeeReader(z, tar)}
	stdout := &keeper{w: io.MultiWriter(out, xz)}
	err = command.Run(ctx, command.Cmd{
		// With one thread xz writes one block, with more of them one for every 24 MiB: the
		// bytes are the same for any number above one (seen with 2, 3, 4 and 8 of xz 5.4).
		// Each takes some 170 MB of memory.
		Args:  []string{"xz", "-6", "--threads=" + strconv.Itoa(min(max(runtime.NumCPU(), 2), 8)), "--stdout"},
		Env:   []string{"XZ_DEFAULTS=", "XZ_OPT="},
		Stdin: stdin, Stdout: stdout,
	})
	switch { // a full disk or a damaged stream is why xz failed, not what it says of its pipes
	case stdout.err != nil:
		err = stdout.err
	case ctx.Err() == nil && stdin.err != nil:
		err = fmt.Errorf("%s: %w: %w: build the image again", path, archive.ErrDamaged, stdin.err)
	}
	if err != nil {
		return "", err
	}
	if got, want := tar.sum(), b.manifest.Tar; got != want.SHA256 || tar.size != want.Size {
		return "", fmt.Errorf("%s does not hold the tar of its manifest (got sha256 %s, %d bytes, want %s, %d bytes): build the image again",
			path, got, tar.size, want.SHA256, want.Size)
	}
	stage.Done("%s, %d MiB", filepath.Base(out.Name()), xz.size>>20)
	return xz.sum(), out.Close()
}

// counter hashes and counts what passes.
type counter struct {
	to       hash.Hash
	size     int64
	progress func(int64)
}

func (c *counter) Write(p []byte) (int, error) {
	c.size += int64(len(p))
	if c.progress != nil {
		c.progress(c.size)
	}
	return c.to.Write(p)
}

func (c *counter) sum() string { return hex.EncodeToString(c.to.Sum(nil)) }

// keeper keeps the error of one end of a program's pipe.
type keeper struct {
	r   io.Reader
	w   io.Writer
	err error
}

func (k *keeper) Read(p []byte) (int, error) {
	n, err := k.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		k.err = err
	}
	return n, err
}

func (k *keeper) Write(p []byte) (int, error) {
	n, err := k.w.Write(p)
	if err != nil {
		k.err = err
	}
	return n, err
}
