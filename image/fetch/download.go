package fetch

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// download is one file on its way.
type download struct {
	*client
	File
	out  *os.File  // all of which sum has seen
	sum  hash.Hash // SHA-256
	have int64     // bytes

	etag  string // of the last answer, to go on with the same file only
	mixed bool   // out has parts of several answers
}

// permanent is an error that another try can't mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

var errStalled = errors.New("the server sends nothing any more")

// run completes out, or leaves what there is for another run.
func (d *download) run(ctx context.Context) error {
	n, err := io.Copy(d.sum, d.out)
	if err != nil {
		return err
	}
	d.have, d.mixed = n, n > 0
	d.progress(n, 0)

	best := d.have
	for try := 1; ; try++ {
		err := d.attempt(ctx)
		if errors.Is(err, ErrMismatch) && d.mixed {
			// The disk may have lost a part, or the server may have another file by now.
			if err := d.restart(); err != nil {
				return err
			}
			continue
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("stopped: %w", context.Cause(ctx))
		}
		if errors.As(err, &permanent{}) {
			return fmt.Errorf("%s: %w", name(d.URL), err)
		}
		if d.have > best {
			best, try = d.have, 1
		}
		if try >= tries {
			return fmt.Errorf("%s: %d tries in vain: check the network, or try again later: %w", name(d.URL), tries, err)
		}
		select {
		case <-time.After(d.backoff << (try - 1)):
		case <-ctx.Done():
		}
	}
}

// attempt asks once for what is missing, and verifies the file if that brings its end.
func (d *download) attempt(ctx context.Context) error {
	if d.Size == 0 || d.have < d.Size {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		alive := time.AfterFunc(d.stall, func() { cancel(errStalled) })
		defer alive.Stop()
		if err := d.transfer(ctx, func() { alive.Reset(d.stall) }); err != nil {
			if context.Cause(ctx) == errStalled {
				return errStalled
			}
			return err
		}
	}
	if got := hex.EncodeToString(d.sum.Sum(nil)); got != d.SHA256 {
		return permanent{fmt.Errorf("%w: its SHA-256 is %s, not %s: try again later, or use another mirror", ErrMismatch, got, d.SHA256)}
	}
	return nil
}

func (d *download) transfer(ctx context.Context, alive func()) error {
	body, from, size, err := d.open(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	if from != d.have {
		if err := d.restart(); err != nil {
			return err
		}
		if from != 0 {
			return errors.New("the server sent another part than the one it was asked for")
		}
	}
	d.mixed = from > 0
	if d.Size == 0 && size > 0 {
		d.Size = size
		d.progress(0, size)
	}
	if size >= 0 && size != d.Size {
		return d.wrongSize(size)
	}
	buffer := make([]byte, 128<<10)
	for {
		n, err := body.Read(buffer)
		alive()
		if d.Size > 0 && d.have+int64(n) > d.Size {
			return d.wrongSize(d.have + int64(n))
		}
		if _, err := d.out.Write(buffer[:n]); err != nil {
			return permanent{err}
		}
		d.sum.Write(buffer[:n])
		d.have += int64(n)
		d.progress(int64(n), 0)
		switch {
		case err == io.EOF && d.have < d.Size:
			return io.ErrUnexpectedEOF
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil: // a file has no context
			return context.Cause(ctx)
		}
	}
}

func (d *download) wrongSize(size int64) error {
	return permanent{fmt.Errorf("%w: it has %d bytes or more, not %d: try again later, or use another mirror", ErrMismatch, size, d.Size)}
}

func (d *download) restart() error {
	d.progress(-d.have, 0)
	d.have, d.mixed, d.etag = 0, false, ""
	d.sum.Reset()
	if _, err := d.out.Seek(0, io.SeekStart); err != nil {
		return permanent{err}
	}
	if err := d.out.Truncate(0); err != nil {
		return permanent{err}
	}
	return nil
}

// open asks for the file from d.have on, and tells from where on it got it and the size
// of the whole file, -1 if that is unknown.
func (d *download) open(ctx context.Context) (body io.ReadCloser, from, size int64, err error) {
	header := http.Header{}
	if d.have > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", d.have))
		if d.etag != "" {
			header.Set("If-Range", d.etag)
		}
	}
	response, err := d.request(ctx, d.URL, header)
	if err != nil {
		return nil, 0, 0, err
	}
	size = response.ContentLength
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusPartialContent:
		size = -1
		if n, _ := fmt.Sscanf(response.Header.Get("Content-Range"), "bytes %d-", &from); n != 1 {
			from = -1
		}
		if from >= 0 && response.ContentLength >= 0 {
			size = from + response.ContentLength
		}
	case http.StatusRequestedRangeNotSatisfiable: // what is there is longer than the file
		response.Body.Close()
		return nil, 0, 0, cmp.Or(d.restart(), errors.New(response.Status))
	}
	if etag := response.Header.Get("ETag"); !strings.HasPrefix(etag, "W/") { // RFC 9110, 13.1.5
		d.etag = etag
	}
	return response.Body, from, size, nil
}

// request answers any URL with a response that has 200, 206 or 416 as its status.
func (c *client) request(ctx context.Context, address string, header http.Header) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, permanent{err}
	}
	request.Header = header
	switch request.URL.Scheme {
	case "file":
		// http.NewFileTransport lists folders, and takes an error of any kind for a 404.
		return readFile(request.URL.Path)
	case "http", "https":
	default:
		return nil, permanent{errors.New("not an http, https or file URL")}
	}
	response, err := c.http.Do(request)
	if err != nil {
		// It repeats the URL, which the caller says.
		if inner := (*url.Error)(nil); errors.As(err, &inner) {
			err = inner.Err
		}
		return nil, err
	}
	switch code := response.StatusCode; {
	case code == http.StatusOK,
		code == http.StatusPartialContent && header.Get("Range") != "",
		code == http.StatusRequestedRangeNotSatisfiable && header.Get("Range") != "":
		return response, nil
	case code == http.StatusNotFound, code == http.StatusGone:
		err = permanent{fs.ErrNotExist}
	case code >= 500, code == http.StatusRequestTimeout, code == http.StatusTooManyRequests:
		err = errors.New(response.Status)
	default:
		err = permanent{errors.New(response.Status)}
	}
	response.Body.Close()
	return nil, err
}

func readFile(path string) (*http.Response, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, permanent{err}
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, permanent{err}
	}
	return &http.Response{StatusCode: http.StatusOK, Body: f, ContentLength: info.Size()}, nil
}

// name is a URL as it may be printed.
func name(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "a malformed URL"
	}
	return u.Redacted()
}
