// Package fetch downloads files whose digests are known beforehand. What is there already
// is not downloaded again, what was interrupted goes on where it stopped, and a file that
// has its name has been verified.
package fetch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"ephemeral-builder/image/dirlock"
)

// ErrMismatch is a file that was there, and was not the one that was asked for.
var ErrMismatch = errors.New("not the expected file")

// File is what to download, and where to. Path gets its folder if absent; while the
// download lasts, the file is called Path.partial.
type File struct {
	URL    string // http, https or file
	Path   string
	Size   int64  // bytes; 0 if unknown
	SHA256 string // lower-case hex
}

// Options are the same for all files. The zero value is good.
type Options struct {
	// Workers is how many files [All] works on at once, 8 if zero.
	Workers int

	// Proxy is that of [http.Transport], such as apt.Proxy returns; if nil it comes from
	// HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the environment.
	Proxy func(*http.Request) (*url.URL, error)

	// Progress is told how many bytes of how many are there, never twice at a time. A size
	// that is unknown counts when the server tells it, and done becomes less if a download
	// has to start over.
	Progress func(done, total int64)

	stall   time.Duration // without a byte; a minute if zero
	backoff time.Duration // before the second try, doubled for each further; half a second if zero
}

const (
	defaultWorkers = 8 // most packages are so small that it is round trips that take the time
	tries          = 4 // without any progress
)

// Get downloads one file. It tries again a few times when the connection breaks, no byte
// comes for a minute, or the server has an error of its own (5xx). A file that does not
// exist is [fs.ErrNotExist], one with other bytes [ErrMismatch]. Any number of processes
// may ask for the same file at once.
func Get(ctx context.Context, f File, o Options) error {
	return All(ctx, []File{f}, o)
}

// All downloads files as [Get] does one, several at once. It stops at the first error,
// except that all files that do not exist are reported together, after the rest is there.
func All(ctx context.Context, files []File, o Options) error {
	c := newClient(o)
	defer c.http.CloseIdleConnections()
	for _, f := range files {
		c.total += f.Size
	}
	indexes := make([]int, len(files))
	for i := range indexes {
		indexes[i] = i
	}
	// The largest first, so that none of them is left to go on alone at the end.
	slices.SortStableFunc(indexes, func(a, b int) int { return cmp.Compare(files[b].Size, files[a].Size) })
	missing := make([]error, len(files))
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(cmp.Or(o.Workers, defaultWorkers))
	for _, i := range indexes {
		workers.Go(func() error {
			err := c.get(ctx, files[i])
			if errors.Is(err, fs.ErrNotExist) {
				missing[i], err = err, nil
			}
			return err
		})
	}
	if err := workers.Wait(); err != nil {
		return err
	}
	return errors.Join(missing...)
}

// client is what the downloads of one call share.
type client struct {
	Options
	http *http.Client

	mu          sync.Mutex
	done, total int64
}

func newClient(o Options) *client {
	o.stall = cmp.Or(o.stall, time.Minute)
	o.backoff = cmp.Or(o.backoff, time.Second/2)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if o.Proxy != nil {
		transport.Proxy = o.Proxy
	}
	transport.DisableCompression = true // ranges and digests are those of the file itself
	transport.MaxIdleConnsPerHost = cmp.Or(o.Workers, defaultWorkers)
	return &client{Options: o, http: &http.Client{Transport: transport}}
}

func (c *client) progress(done, total int64) {
	if c.Progress == nil || done == 0 && total == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += done
	c.total += total
	c.Progress(c.done, c.total)
}

func (c *client) get(ctx context.Context, f File) error {
	if size, err := verify(f.Path, f); err == nil {
		c.progress(size, size-f.Size)
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrMismatch) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	partial, unlock, err := lockPartial(ctx, f.Path+".partial")
	if err != nil {
		return err
	}
	defer unlock()
	defer partial.Close()
	// Somebody else may have finished it while we waited.
	if size, err := verify(f.Path, f); err == nil {
		c.progress(size, size-f.Size)
		return os.Remove(partial.Name())
	}
	d := download{client: c, File: f, out: partial, sum: sha256.New()}
	if err := d.run(ctx); err != nil {
		if errors.Is(err, ErrMismatch) || errors.Is(err, fs.ErrNotExist) || d.have == 0 {
			os.Remove(partial.Name())
		}
		return err
	}
	// Not synced: whoever uses the file has it verified again, by way of this function.
	return os.Rename(partial.Name(), f.Path)
}

// lockPartial opens a partial file that nobody else writes to.
func lockPartial(ctx context.Context, path string) (f *os.File, unlock func(), err error) {
	for {
		if f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
			return nil, nil, err
		}
		unlock, err = dirlock.Lock(ctx, path) // a file can be locked like a folder
		if err == nil {
			// Its last owner may have given it its final name, or removed it, as we waited.
			opened, err1 := f.Stat()
			named, err2 := os.Stat(path)
			if err1 == nil && err2 == nil && os.SameFile(opened, named) {
				return f, unlock, nil
			}
			unlock()
			err = errors.Join(err1, err2)
		}
		f.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
	}
}

// verify reads a file to see if it is f, and returns its size.
func verify(path string, f File) (int64, error) {
	in, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	if info, err := in.Stat(); err != nil {
		return 0, err
	} else if f.Size > 0 && info.Size() != f.Size {
		return 0, ErrMismatch
	}
	sum := sha256.New()
	size, err := io.Copy(sum, in)
	if err != nil {
		return 0, err
	}
	if hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
		return 0, ErrMismatch
	}
	return size, nil
}
