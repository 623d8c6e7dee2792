package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Read reads a .tar.zst from r to its end and shows every entry to the visitors. Its
// errors wrap [ErrDamaged] for a bad stream.
func Read(ctx context.Context, r io.Reader, visit ...Visitor) (Summary, error) {
	in, err := NewReader(ctx, r)
	if err != nil {
		return Summary{}, err
	}
	defer in.Close()
	buf := make([]byte, copySize)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return in.Summary(), nil
		}
		if err != nil {
			return Summary{}, err
		}
		if content := visitors(visit).open(h); content != nil {
			if _, err := io.CopyBuffer(content, in, buf); err != nil {
				return Summary{}, fmt.Errorf("entry %q: %w", h.Name, err)
			}
		}
	}
}

// Reader reads the entries of an archive one by one, as [tar.Reader] does, and unlike
// that one tells a whole archive from one that was cut short between two entries.
type Reader struct {
	ctx     context.Context
	zstd    *zstd.Decoder // nil for a plain tar
	bytes   *ending
	meter   *meter    // nil if nobody asks for a summary
	stream  io.Reader // of bytes, through the meter
	tar     *tar.Reader
	entries int
}

// NewReader reads a .tar.zst.
func NewReader(ctx context.Context, r io.Reader) (*Reader, error) {
	return newReader(ctx, r, &meter{ctx: ctx, hash: sha256.New()})
}

// NewTarReader reads a tar that is not compressed.
func NewTarReader(ctx context.Context, r io.Reader) *Reader {
	return newTarReader(ctx, source{r}, &meter{ctx: ctx, hash: sha256.New()})
}

func newReader(ctx context.Context, r io.Reader, m *meter) (*Reader, error) {
	z, err := zstd.NewReader(source{r})
	if err != nil {
		return nil, broken(ctx, err)
	}
	in := newTarReader(ctx, z, m)
	in.zstd = z
	return in, nil
}

func newTarReader(ctx context.Context, r io.Reader, m *meter) *Reader {
	in := &Reader{ctx: ctx, bytes: &ending{Reader: bufio.NewReaderSize(r, copySize)}, meter: m}
	in.stream = in.bytes
	if m != nil {
		in.stream = io.TeeReader(in.bytes, m)
	}
	in.tar = tar.NewReader(in.stream)
	return in
}

// Close frees what decompression needs. It does not close the stream below.
func (r *Reader) Close() {
	if r.zstd != nil {
		r.zstd.Close()
	}
}

// Summary describes the archive once Next has returned io.EOF.
func (r *Reader) Summary() Summary { return r.meter.summary(r.entries) }

// Next goes to the next entry. It returns io.EOF only after the last byte of a whole
// archive; other errors wrap [ErrDamaged], or are those of the stream or the context.
func (r *Reader) Next() (*tar.Header, error) {
	h, err := r.tar.Next()
	switch {
	case err == io.EOF && r.bytes.reached: // no end-of-archive blocks
		return nil, broken(r.ctx, io.ErrUnexpectedEOF)
	case err == io.EOF:
		return nil, r.finish()
	case err != nil:
		return nil, broken(r.ctx, err)
	}
	r.entries++
	return h, nil
}

// finish reads the padding, and zstd's checksum.
func (r *Reader) finish() error {
	buf, zeros := make([]byte, 10<<10), make([]byte, 10<<10)
	for {
		n, err := r.stream.Read(buf)
		if !bytes.Equal(buf[:n], zeros[:n]) {
			return broken(r.ctx, errors.New("data after the end"))
		}
		if err == io.EOF {
			return io.EOF
		}
		if err != nil {
			return broken(r.ctx, err)
		}
	}
}

// Read reads the content of the entry that Next returned last.
func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.tar.Read(p)
	if err != nil && err != io.EOF {
		err = broken(r.ctx, err)
	}
	return n, err
}

// broken turns an error of reading into one that tells what is at fault.
func broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if failed, ok := errors.AsType[sourceError](err); ok {
		return fmt.Errorf("read archive: %w", failed.error)
	}
	return fmt.Errorf("%w: %w: fetch or build it again", ErrDamaged, err)
}

// source marks the errors of the caller's reader, to tell them from a damaged stream.
type source struct{ r io.Reader }

type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

func (s source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = sourceError{err}
	}
	return n, err
}

// ending remembers that the end was read, which archive/tar does not tell from the two
// empty blocks that end a tar.
type ending struct {
	io.Reader
	reached bool
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if n > 0 {
		return n, nil // the error comes again with the next call
	}
	e.reached = err == io.EOF
	return n, err
}
