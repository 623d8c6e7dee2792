package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	content = bytes.Repeat([]byte("all work and no play "), 20000)
	quick   = Options{backoff: time.Millisecond, Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}
)

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// file is content as it is served at address.
func file(t *testing.T, address string) File {
	return File{URL: address, Path: filepath.Join(t.TempDir(), "new", "file.deb"), Size: int64(len(content)), SHA256: digest(content)}
}

// serve returns the address of a server, and the list of Range headers it has got.
func serve(t *testing.T, handler http.HandlerFunc) (address string, ranges func() []string) {
	var mu sync.Mutex
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Header.Get("Range"))
		mu.Unlock()
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/file.deb", func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), seen...)
	}
}

// whole serves content as an ordinary web server does.
func whole(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", `"1"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// cut ends the connection in the middle of what is announced.
func cut(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	w.Write(body)
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func checkComplete(t *testing.T, f File) {
	t.Helper()
	got, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, content) {
		t.Errorf("got %d bytes with sha256 %s, want %d with %s", len(got), digest(got), len(content), digest(content))
	}
	checkNoPartial(t, f)
}

func checkNoPartial(t *testing.T, f File) {
	t.Helper()
	if _, err := os.Stat(f.Path + ".partial"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("partial file: got %v, want none", err)
	}
}

func writePartial(t *testing.T, f File, text []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Path+".partial", text, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestGetOnce(t *testing.T) {
	address, ranges := serve(t, whole)
	f := file(t, address)
	var done, total int64
	o := quick
	o.Progress = func(d, n int64) { done, total = d, n }
	for range 2 {
		done, total = 0, 0
		if err := Get(t.Context(), f, o); err != nil {
			t.Fatal(err)
		}
		checkComplete(t, f)
		if done != f.Size || total != f.Size {
			t.Errorf("progress ended at %d of %d, want %d of it", done, total, f.Size)
		}
	}
	if got := ranges(); len(got) != 1 {
		t.Errorf("got %d requests, want 1: the second time it was there", len(got))
	}
}

func TestGetUnknownSize(t *testing.T) {
	address, _ := serve(t, whole)
	f := file(t, address)
	f.Size = 0
	var done, total int64
	o := quick
	o.Progress = func(d, n int64) { done, total = d, n }
	if err := Get(t.Context(), f, o); err != nil {
		t.Fatal(err)
	}
	checkComplete(t, f)
	if want := int64(len(content)); done != want || total != want {
		t.Errorf("progress ended at %d of %d, want %d of it", done, total, want)
	}
}

func TestGetFromFile(t *testing.T) {
	f := file(t, "")
	path := filepath.Join(t.TempDir(), "a b.deb")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	f.URL = "file://" + strings.ReplaceAll(path, " ", "%20")
	writePartial(t, f, content[:5])
	if err := Get(t.Context(), f, quick); err != nil {
		t.Fatal(err)
	}
	checkComplete(t, f)

	f = file(t, "file://"+filepath.Dir(path))
	if err := Get(t.Context(), f, quick); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("folder: got %v", err)
	}
	f.URL += "/none"
	if err := Get(t.Context(), f, quick); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), f.URL) {
		t.Errorf("missing file: got %v, want fs.ErrNotExist with %s", err, f.URL)
	}
	checkNoPartial(t, f)
}

func TestResume(t *testing.T) {
	half := len(content) / 2
	rotten := append([]byte("rot"), content[3:half]...)
	ignoring := func(w http.ResponseWriter, r *http.Request) { w.Write(content) }
	otherPart := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			w.Header().Set("Content-Range", "bytes 7-8/9")
			w.WriteHeader(http.StatusPartialContent)
			return
		}
		w.Write(content)
	}
	from := func(n int) string { return fmt.Sprintf("bytes=%d-", n) }
	for _, test := range []struct {
		name    string
		partial []byte
		handler http.HandlerFunc
		ranges  []string
	}{
		{"half", content[:half], whole, []string{from(half)}},
		{"all", content, whole, nil},
		{"nothing", nil, whole, []string{""}},
		{"rotten", rotten, whole, []string{from(half), ""}},
		{"too long", append(bytes.Clone(content), 'x'), whole, []string{""}},
		{"server without ranges", content[:half], ignoring, []string{from(half)}},
		{"server with another part", content[:half], otherPart, []string{from(half), ""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			address, ranges := serve(t, test.handler)
			f := file(t, address)
			writePartial(t, f, test.partial)
			var done int64
			o := quick
			o.Progress = func(n, _ int64) { done = n }
			if err := Get(t.Context(), f, o); err != nil {
				t.Fatal(err)
			}
			checkComplete(t, f)
			if got, want := fmt.Sprintf("%q", ranges()), fmt.Sprintf("%q", test.ranges); got != want {
				t.Errorf("got ranges %s, want %s", got, want)
			}
			if done != f.Size {
				t.Errorf("progress ended at %d, want %d", done, f.Size)
			}
		})
	}
}

// A partial file that is longer than a file of unknown size.
func TestResumeBehindTheEnd(t *testing.T) {
	address, ranges := serve(t, whole)
	f := file(t, address)
	f.Size = 0
	writePartial(t, f, append(bytes.Clone(content), 'x'))
	if err := Get(t.Context(), f, quick); err != nil {
		t.Fatal(err)
	}
	checkComplete(t, f)
	if got := ranges(); len(got) != 2 {
		t.Errorf("got %q, want a range that can't be had and a whole file", got)
	}
}

// Each answer brings a tenth: more tries than it would have without progress.
func TestBrokenConnectionsGoOn(t *testing.T) {
	address, ranges := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var from int
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		if from > 0 && r.Header.Get("If-Range") != `"1"` {
			t.Errorf("If-Range: got %q, want the entity tag", r.Header.Get("If-Range"))
		}
		to := min(from+len(content)/10, len(content))
		w.Header().Set("ETag", `"1"`)
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
			w.Header().Set("Content-Length", strconv.Itoa(len(content)-from))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		}
		w.Write(content[from:to])
		w.(http.Flusher).Flush()
		if to < len(content) {
			panic(http.ErrAbortHandler)
		}
	})
	f := file(t, address)
	if err := Get(t.Context(), f, quick); err != nil {
		t.Fatal(err)
	}
	checkComplete(t, f)
	if got := ranges(); len(got) <= tries {
		t.Errorf("got %d requests, want more than %d", len(got), tries)
	}
}

func TestFailures(t *testing.T) {
	wrong := bytes.Clone(content)
	wrong[100] ^= 1
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for _, test := range []struct {
		name     string
		handler  http.HandlerFunc
		is       error
		want     string
		requests int
		partial  bool // what came is kept
	}{
		{"wrong bytes", func(w http.ResponseWriter, _ *http.Request) { w.Write(wrong) }, ErrMismatch, "its SHA-256 is " + digest(wrong), 1, false},
		{"short file", func(w http.ResponseWriter, _ *http.Request) { w.Write(content[:10]) }, ErrMismatch, "it has 10 bytes or more, not", 1, false},
		{"long file", func(w http.ResponseWriter, _ *http.Request) { w.Write(append(bytes.Clone(content), wrong...)) }, ErrMismatch, "bytes or more, not", 1, false},
		{"truncated", func(w http.ResponseWriter, _ *http.Request) { cut(w, content[:99]) }, nil, "4 tries in vain: check the network", tries, true},
		{"not found", status(404), fs.ErrNotExist, "file.deb: file does not exist", 1, false},
		{"gone", status(410), fs.ErrNotExist, "file.deb: file does not exist", 1, false},
		{"forbidden", status(403), nil, "403 Forbidden", 1, false},
		{"unavailable", status(503), nil, "4 tries in vain: check the network, or try again later: 503 Service Unavailable", tries, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			address, ranges := serve(t, test.handler)
			f := file(t, address)
			err := Get(t.Context(), f, quick)
			if err == nil || !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("got %v, want %v with %q", err, test.is, test.want)
			}
			if !strings.HasPrefix(fmt.Sprint(err), address) {
				t.Errorf("got %v, want the address first", err)
			}
			if got := ranges(); len(got) != test.requests {
				t.Errorf("got %d requests, want %d", len(got), test.requests)
			}
			if _, err := os.Stat(f.Path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: got %v, want no file", f.Path, err)
			}
			if _, err := os.Stat(f.Path + ".partial"); (err == nil) != test.partial {
				t.Errorf("partial file: got %v, want %v", err, test.partial)
			}
		})
	}
}

func TestUnavailableThenGood(t *testing.T) {
	var requests atomic.Int32
	address, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) < tries {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		whole(w, r)
	})
	f := file(t, address)
	if err := Get(t.Context(), f, quick); err != nil {
		t.Fatal(err)
	}
	checkComplete(t, f)
}

func TestStall(t *testing.T) {
	release := make(chan struct{})
	address, ranges := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			whole(w, r)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.Write(content[:1000])
		w.(http.Flusher).Flush()
		<-release
	})
	defer close(release)
	f := file(t, address)
	o := quick
	o.stall = 50 * time.Millisecond
	if err := Get(t.Context(), f, o); err != nil {
		t.Fatal(err)
	}
	checkComplete(t, f)
	if got, want := fmt.Sprint(ranges()), "[ bytes=1000-]"; got != want {
		t.Errorf("got ranges %s, want %s", got, want)
	}
}

func TestCancel(t *testing.T) {
	release := make(chan struct{})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	address, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write(content[:1000])
		w.(http.Flusher).Flush()
		<-release
	})
	defer close(release)
	f := file(t, address)
	f.Size = 0 // so that progress comes with each byte
	o := quick
	o.Progress = func(done, _ int64) {
		if done == 1000 {
			cancel(why)
		}
	}
	if err := Get(ctx, f, o); !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
	if info, err := os.Stat(f.Path + ".partial"); err != nil || info.Size() != 1000 {
		t.Errorf("partial file: got %v, %v, want one of 1000 bytes", info, err)
	}
	// It can be stopped between two tries, too.
	down, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	if err := Get(ctx, file(t, down), Options{backoff: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want deadline exceeded", err)
	}
}

// Every call has a lock of its own, as separate processes have.
func TestConcurrentGets(t *testing.T) {
	address, ranges := serve(t, whole)
	f := file(t, address)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := Get(t.Context(), f, quick); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	checkComplete(t, f)
	if got := ranges(); len(got) != 1 {
		t.Errorf("got %d requests, want 1", len(got))
	}
}

// What is there with wrong bytes is replaced.
func TestRottenFile(t *testing.T) {
	address, _ := serve(t, whole)
	for name, text := range map[string][]byte{"short": []byte("x"), "rotten": append([]byte("x"), content[1:]...)} {
		f := file(t, address)
		if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.Path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := Get(t.Context(), f, quick); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		checkComplete(t, f)
	}
}

func TestAll(t *testing.T) {
	address, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "gone") {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, r.URL.Path)
	})
	dir := t.TempDir()
	var files []File
	var total int64
	for i := range 30 {
		path := fmt.Sprintf("/file.deb/%d", i)
		files = append(files, File{URL: address + path[len("/file.deb"):], Path: filepath.Join(dir, strconv.Itoa(i)), Size: int64(len(path)), SHA256: digest([]byte(path))})
		total += int64(len(path))
	}
	o := quick
	var last, of int64
	o.Progress = func(done, total int64) {
		if done < last {
			t.Errorf("progress went back from %d to %d", last, done)
		}
		last, of = done, total
	}
	if err := All(t.Context(), files, o); err != nil {
		t.Fatal(err)
	}
	if last != total || of != total {
		t.Errorf("progress ended at %d of %d, want %d of it", last, of, total)
	}

	// All that are gone are named, in their order, and the rest is there.
	o.Progress = nil
	files[3].URL, files[20].URL = address+"/3-gone", address+"/20-gone"
	for _, f := range files {
		if err := os.Remove(f.Path); err != nil {
			t.Fatal(err)
		}
	}
	err := All(t.Context(), files, o)
	if got, want := fmt.Sprint(err), address+"/3-gone: file does not exist\n"+address+"/20-gone: file does not exist"; got != want || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %s, want %s", got, want)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != len(files)-2 {
		t.Errorf("got %d files, want %d: %v", len(entries), len(files)-2, err)
	}

	files[5].SHA256 = digest(nil)
	if err := All(t.Context(), files, o); !errors.Is(err, ErrMismatch) {
		t.Errorf("got %v, want %v", err, ErrMismatch)
	}
	if err := All(t.Context(), nil, o); err != nil {
		t.Errorf("no files: %v", err)
	}
}

func TestRead(t *testing.T) {
	address, _ := serve(t, whole)
	got, err := Read(t.Context(), address, int64(len(content)), quick)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(content))
	}
	if _, err := Read(t.Context(), address, 10, quick); err == nil || !strings.Contains(err.Error(), "more than 10 bytes") {
		t.Errorf("got %v, want it to be too long", err)
	}
	if _, err := Read(t.Context(), "file:///none/at/all", 10, quick); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
	if _, err := Read(t.Context(), "ftp://me:secret@host/x", 10, quick); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want an error without the password", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	cancel(why)
	if _, err := Read(ctx, address, 10, quick); !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
}
