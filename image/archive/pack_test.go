package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"
)

// tricky is what GNU tar treats in a way of its own.
func tricky() []item {
	items := []item{
		{name: "order", kind: tar.TypeDir, mode: 0o755},
		{name: "order/z", kind: tar.TypeReg, mode: 0o644},
		{name: "order-b", kind: tar.TypeReg, mode: 0o644},
		{name: "order.c", kind: tar.TypeDir, mode: 0o755},
		{name: "order0", kind: tar.TypeReg, mode: 0o644},
		{name: "Order", kind: tar.TypeReg, mode: 0o644},
		{name: "é", kind: tar.TypeReg, mode: 0o644},
		{name: "link-1", kind: tar.TypeSymlink, content: "é"},
		{name: "link-2", kind: tar.TypeLink, content: "link-1"},
		{name: "dir/" + strings.Repeat("é", 120), kind: tar.TypeReg, mode: 0o644, content: "long"},
		{name: "dir/to-long", kind: tar.TypeLink, content: "dir/" + strings.Repeat("é", 120)},
		{name: "trailing-blank ", kind: tar.TypeReg, mode: 0o644},
		{name: "-option", kind: tar.TypeReg, mode: 0o644},
		{name: "old", kind: tar.TypeReg, mode: 0o644, mtime: time.Unix(0, 1)},
		{name: "older", kind: tar.TypeReg, mode: 0o644, mtime: time.Unix(-86400, 500_000_000)},
	}
	for i := range items {
		if items[i].mtime.IsZero() {
			items[i].mtime = past
		}
	}
	return items
}

// plantGolden makes a tree of which all that an archive keeps is the same on every machine,
// but for the owners.
func plantGolden(t *testing.T, dir string, items []item) {
	t.Helper()
	plant(t, dir, items)
	path := filepath.Join(dir, "sparse")
	sparse, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	if _, err := sparse.WriteAt([]byte("after a hole"), 3<<20); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sparse.Truncate(5<<20), sparse.Chmod(0o644)); err != nil {
		t.Fatal(err)
	}
	touch(t, path, past)
	// Neither belongs in an archive, with whatever other name it has.
	for _, name := range []string{"dir/device", "order/device"} {
		err := unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
		if err == nil {
			err = os.Link(filepath.Join(dir, name), filepath.Join(dir, name+"-2"))
		}
		if err != nil {
			t.Logf("without %s: %v", name, err)
		}
	}
	touch(t, filepath.Join(dir, "dir"), past)
	touch(t, filepath.Join(dir, "order"), past)
	touch(t, dir, past)
}

// TestGolden pins the bytes of an archive, which must stay the same from release to
// release, however GNU tar was called. If only the .tar.zst is another, the compressor has
// changed: images of equal content then have other digests than those that are published.
func TestGolden(t *testing.T) {
	items := slices.Concat(everything(), tricky())
	xattrs := xattrItems(t, t.TempDir(), nil)
	for name, test := range map[string]struct {
		items []item
		want  Summary
		zst   string // SHA-256 of the .tar.zst
	}{
		"plain": {
			items,
			Summary{"831776ee29365347950d33e456c7cf7fc38f0905df0aeffb6a072368907d9978", 6291456, 58},
			"3e565b89d98cd0603525353d0cf35aa4979c1e1c1f9c65b5435f6b6991ef3d30",
		},
		"extended attributes": {
			slices.Concat(items, xattrs),
			Summary{"968a54e88312b7ee9030831d0b75c95c59a404313e709c03a814a17b116cb3e3", 6301184, 62},
			"a774a749e50023b43bbda5073ec36c94e96309bbde5dbf6b41023ef2b05a98b2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "plain" && len(xattrs) < 4 {
				t.Skip("needs ACLs and capabilities: run `sudo go test ./image/archive` where the file system has both")
			}
			dir := t.TempDir()
			plantGolden(t, dir, test.items)
			for how, args := range map[string][]string{
				"as documented":   {"--numeric-owner"},
				"names of owners": {},
				"lean":            {"--pax-option=delete=atime,delete=ctime"},
				"text ACLs too":   {"--acls"},
				"sparse files":    {"--sparse"},
				"much padding":    {"--blocking-factor=400"},
			} {
				args = append(args, "--format=pax", "--xattrs", "--xattrs-include=*", "--owner=root:0", "--group=root:0")
				data, got, err := packTar(t, gnuTar(t, dir, args...), Options{Epoch: epoch})
				if err != nil {
					t.Fatalf("%s: %v", how, err)
				}
				if got != test.want {
					t.Errorf("%s: got %+v, want %+v, of\n%s", how, got, test.want, names(headers(t, data)))
				}
				if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != test.zst {
					t.Errorf("%s: compressed: got %s, want %s", how, got, test.zst)
				}
			}
		})
	}
}

func TestPackTakesGNUFormat(t *testing.T) {
	dir := t.TempDir()
	items := slices.DeleteFunc(slices.Concat(everything(), tricky()), func(it item) bool {
		return it.name == "older" // the format's times are whole seconds, which tar rounds towards zero
	})
	plant(t, dir, items)
	want, _ := pack(t, dir, Options{})
	for _, args := range [][]string{{"--format=gnu"}, {"--format=gnu", "--sparse"}} {
		got, _, err := packTar(t, gnuTar(t, dir, args...), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: got\n%s\n\nwant\n%s", args, names(headers(t, got)), names(headers(t, want)))
		}
	}
}

func TestDevicesAreLeftOut(t *testing.T) {
	data, s, err := packTar(t, rawTar(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "./"},
		tar.Header{Typeflag: tar.TypeBlock, Name: "./disk"},
		tar.Header{Typeflag: tar.TypeReg, Name: "./file"},
		tar.Header{Typeflag: tar.TypeChar, Name: "./null", Devmajor: 1, Devminor: 3},
		tar.Header{Typeflag: tar.TypeLink, Name: "./null-2", Linkname: "./null"},
		tar.Header{Typeflag: tar.TypeLink, Name: "./null-3", Linkname: "./null-2"},
		tar.Header{Typeflag: tar.TypeLink, Name: "./other", Linkname: "./file"}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range headers(t, data) {
		got = append(got, h.Name)
	}
	if want := []string{"./", "./file", "./other"}; !slices.Equal(got, want) || s.Entries != len(want) {
		t.Errorf("got %q, %d entries, want %q", got, s.Entries, want)
	}
}

// TestSameBytesOnAnyMachine pins what reproducibility rests on: the compressed bytes depend
// neither on the number of CPUs nor on how the input is cut into writes.
func TestSameBytesOnAnyMachine(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	// More than two of the sections that are compressed side by side.
	input := []byte(strings.Repeat(noise(3<<20)+strings.Repeat("compressible ", 1<<20), 5))
	const want = "107510a3710174e19b12a249c345816cd327910a8004eb0142f064cc0023531a"
	for _, test := range []struct{ cpus, size int }{{1, len(input)}, {2, len(input)}, {8, len(input)}, {8, 777}} {
		runtime.GOMAXPROCS(test.cpus)
		var out bytes.Buffer
		z, err := newEncoder(&out)
		if err != nil {
			t.Fatal(err)
		}
		for part := range slices.Chunk(input, test.size) {
			if _, err := z.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(out.Bytes())); got != want {
			t.Errorf("%d CPUs, writes of %d bytes: got %s, want %s", test.cpus, test.size, got, want)
		}
	}
}

func TestVisit(t *testing.T) {
	raw := rawTar(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "./", Uname: "somebody", ModTime: future},
		tar.Header{Typeflag: tar.TypeReg, Name: "./a"},
		tar.Header{Typeflag: tar.TypeLink, Name: "./b", Linkname: "./a"},
		tar.Header{Typeflag: tar.TypeChar, Name: "./c"},
		tar.Header{Typeflag: tar.TypeReg, Name: "./d"})
	var first, second bytes.Buffer
	var seen []string
	visit := []Visitor{
		func(h *tar.Header) io.Writer {
			seen = append(seen, fmt.Sprintf("%c %s %q %d", h.Typeflag, h.Name, h.Uname, h.ModTime.Unix()))
			return &first
		},
		func(h *tar.Header) io.Writer {
			if h.Name == "./d" {
				return &second
			}
			return nil
		},
	}
	check := func(what string) {
		t.Helper()
		want := []string{`5 ./ "" 1700000000`, `0 ./a "" 0`, `1 ./b "" 0`, `0 ./d "" 0`}
		if !slices.Equal(seen, want) {
			t.Errorf("%s: got %q, want %q", what, seen, want)
		}
		if first.String() != "evilevil" || second.String() != "evil" {
			t.Errorf("%s: got %q and %q, want %q and %q", what, &first, &second, "evilevil", "evil")
		}
		seen = nil
		first.Reset()
		second.Reset()
	}
	data, packed, err := packTar(t, raw, Options{Epoch: epoch, Visit: visit})
	if err != nil {
		t.Fatal(err)
	}
	check("Pack")
	read, err := Read(t.Context(), bytes.NewReader(data), visit...)
	if err != nil {
		t.Fatal(err)
	}
	check("Read")
	if read != packed {
		t.Errorf("Read: got %+v, want %+v", read, packed)
	}

	full := errors.New("visitor is full")
	failing := func(*tar.Header) io.Writer { return failingWriter{full} }
	if _, _, err := packTar(t, raw, Options{Visit: []Visitor{failing}}); !errors.Is(err, full) || !strings.Contains(err.Error(), "./a") {
		t.Errorf("Pack: got %v, want %v and the entry", err, full)
	}
	if _, err := Read(t.Context(), bytes.NewReader(data), failing); !errors.Is(err, full) || !strings.Contains(err.Error(), "./a") {
		t.Errorf("Read: got %v, want %v and the entry", err, full)
	}
}

type failingWriter struct{ error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.error }

func TestPackRefuses(t *testing.T) {
	top := tar.Header{Typeflag: tar.TypeDir, Name: "./"}
	dir := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name} }
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	for name, test := range map[string]struct {
		entries []tar.Header
		want    string
	}{
		"no top":                 {[]tar.Header{file("./a")}, `entry "./a": comes before`},
		"top twice":              {[]tar.Header{top, top}, "comes after"},
		"top as a file":          {[]tar.Header{top, file("./.")}, "should be named"},
		"bare names":             {[]tar.Header{top, file("a")}, `should be named "./a"`},
		"absolute":               {[]tar.Header{top, file("/a")}, "should be named"},
		"not clean":              {[]tar.Header{top, dir("./a/"), file("./a/../b")}, `should be named "./b"`},
		"outside":                {[]tar.Header{top, dir("./../"), file("./../a")}, "should be named"},
		"unsorted":               {[]tar.Header{top, file("./b"), file("./a")}, `"./a": comes after "./b"`},
		"twice":                  {[]tar.Header{top, file("./a"), file("./a")}, "comes after"},
		"file and directory":     {[]tar.Header{top, file("./a"), dir("./a/")}, "comes after"},
		"sorted as whole names":  {[]tar.Header{top, dir("./a/"), file("./a-b"), file("./a/x")}, `"./a/x": comes after "./a-b"`},
		"without its directory":  {[]tar.Header{top, file("./a/b")}, "comes without its directory"},
		"in a file":              {[]tar.Header{top, file("./a"), file("./a/b")}, "comes without its directory"},
		"in a similar directory": {[]tar.Header{top, dir("./a/"), dir("./a/b/"), file("./a/bc/d")}, "comes without its directory"},
		"strange kind":           {[]tar.Header{top, {Typeflag: 'V', Name: "./a"}}, "has a kind"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := packTar(t, rawTar(t, test.entries...), Options{})
			if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, ErrDamaged) {
				t.Errorf("got %v, want …%s…", err, test.want)
			}
		})
	}
}

func TestPackDamaged(t *testing.T) {
	raw := rawTar(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "./"},
		tar.Header{Typeflag: tar.TypeReg, Name: "./a"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "./b", Linkname: strings.Repeat("x/", 200)})
	bad := map[string][]byte{
		"empty":    nil,
		"no entry": make([]byte, 10240),
		"text":     []byte("tar: command not found"),
		"noise":    []byte(noise(4096)),
		"zstd":     compress(t, raw),
		"trailing": append(bytes.Clone(raw), "trailing"...),
		"two":      append(bytes.Clone(raw), raw...),
	}
	for n := 0; n < len(raw); n += 512 {
		bad[fmt.Sprintf("first %d bytes", n)] = raw[:n]
		bad[fmt.Sprintf("first %d bytes", n+100)] = raw[:n+100]
	}
	for name, raw := range bad {
		if _, _, err := packTar(t, raw, Options{}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v, want %v", name, err, ErrDamaged)
		}
	}
	if _, _, err := packTar(t, raw, Options{}); err != nil {
		t.Errorf("whole: got %v", err)
	}
}

func TestReadDamaged(t *testing.T) {
	data, _ := small(t)
	for _, n := range offsets(data) {
		if _, err := Read(t.Context(), bytes.NewReader(data[:n])); !errors.Is(err, ErrDamaged) {
			t.Errorf("first %d of %d bytes: got %v, want %v", n, len(data), err, ErrDamaged)
		}
	}
}

func TestPackFails(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, append(everything(), item{name: "huge", kind: tar.TypeReg, mode: 0o644, mtime: past, content: noise(20 << 20)}))
	raw := gnuTar(t, dir)

	cause := errors.New("stopped by test")
	for _, at := range []int64{0, 1 << 20, 10 << 20} {
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := Pack(ctx, bytes.NewReader(raw), io.Discard, Options{Progress: func(size int64) {
			if size > at {
				cancel(cause)
			}
		}})
		if !errors.Is(err, cause) {
			t.Errorf("cancelled at %d: got %v, want %v", at, err, cause)
		}
	}

	r := io.MultiReader(bytes.NewReader(raw[:len(raw)/2]), iotest.ErrReader(cause))
	if _, err := Pack(t.Context(), r, io.Discard, Options{}); !errors.Is(err, cause) || errors.Is(err, ErrDamaged) {
		t.Errorf("source fails: got %v, want %v", err, cause)
	}

	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	if _, err := Pack(t.Context(), bytes.NewReader(raw), full, Options{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("disk full: got %v, want ENOSPC", err)
	}
}

func TestCompare(t *testing.T) {
	sorted := []string{"./", "./-", "./A", "./a/", "./a/-", "./a/b/", "./a/b/c", "./a/b-", "./a-b", "./a.d/", "./a.d/x", "./a0", "./é"}
	for i, a := range sorted {
		for j, b := range sorted {
			if got := Compare(a, b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%q and %q: got %d", a, b, got)
			}
		}
	}
	if Compare("./a", "./a/") != 0 {
		t.Error("a file and a directory of one name have different places")
	}
}

// BenchmarkPack is to be seen beside `zstd -3 -T0` of a tar, as it also hashes. Half of
// the content compresses well.
func BenchmarkPack(b *testing.B) {
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	write := func(h tar.Header, content string) {
		h.Size, h.Mode, h.Format = int64(len(content)), 0o644, tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			b.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			b.Fatal(err)
		}
	}
	write(tar.Header{Typeflag: tar.TypeDir, Name: "./"}, "")
	half := noise(10_000)
	for i := range 3000 {
		write(tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("./%06d", i)}, half+strings.Repeat(fmt.Sprintf("line %d\n", i), 1000))
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(raw.Len()))
	for b.Loop() {
		if _, err := Pack(b.Context(), bytes.NewReader(raw.Bytes()), io.Discard, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
