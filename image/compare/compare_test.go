package compare

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"ephemeral-builder/image/archive"
	"ephemeral-builder/image/command"
)

var past = time.Unix(1_500_000_000, 0)

type item struct {
	tar.Header
	content string
}

func dir(name string) item {
	return item{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: past}}
}

func file(name, content string) item {
	return item{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: past}, content: content}
}

func link(kind byte, name, to string) item {
	return item{Header: tar.Header{Typeflag: kind, Name: name, Linkname: to, Mode: 0o777, ModTime: past}}
}

// with returns the item with a change.
func (it item) with(change func(*tar.Header)) item {
	change(&it.Header)
	return it
}

func tarOf(t *testing.T, items ...item) []byte {
	t.Helper()
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	for _, it := range items {
		it.Format, it.Size = tar.FormatPAX, int64(len(it.content))
		if err := w.WriteHeader(&it.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, it.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return raw.Bytes()
}

func packed(t *testing.T, raw []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := archive.Pack(t.Context(), bytes.NewReader(raw), &out, archive.Options{}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func compare(t *testing.T, a, b []byte) []string {
	t.Helper()
	list, err := Tarballs(t.Context(), bytes.NewReader(a), bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, d := range list {
		all = append(all, d.String())
	}
	return all
}

func TestDifferences(t *testing.T) {
	top, a := dir("./"), file("./a", "text")
	mode := func(mode int64) func(*tar.Header) { return func(h *tar.Header) { h.Mode = mode } }
	xattr := func(key, value string) func(*tar.Header) {
		return func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr." + key: value} }
	}
	big := strings.Repeat("0123456789abcdef", 3*chunk/16)
	tests := []struct {
		name          string
		first, second []item
		want          []string
	}{
		{"equal", []item{top, a}, []item{top, a}, nil},
		{"only in the first", []item{top, a, file("./b", "")}, []item{top, a}, []string{"/b: file of 0 bytes, only in the first"}},
		{"only in the second", []item{top, a}, []item{top, dir("./A/"), link(tar.TypeSymlink, "./A/x", "y"), a},
			[]string{"/A: directory, only in the second", "/A/x: symlink to y, only in the second"}},
		{"on both sides", []item{top, a, file("./c", "")}, []item{top, a, file("./b", "1"), file("./d", "")},
			[]string{"/b: file of 1 bytes, only in the second", "/c: file of 0 bytes, only in the first", "/d: file of 0 bytes, only in the second"}},
		{"in walk order", []item{top, dir("./a/"), file("./a/x", ""), file("./a-b", "")}, []item{top, dir("./a/"), file("./a-b", "")},
			[]string{"/a/x: file of 0 bytes, only in the first"}},
		{"kind", []item{top, a}, []item{top, dir("./a/").with(mode(0o644))}, []string{"/a: kind: file of 4 bytes, directory"}},
		{"kinds of link", []item{top, a, link(tar.TypeLink, "./b", "./a")}, []item{top, a, link(tar.TypeSymlink, "./b", "a")},
			[]string{"/b: kind: hard link to ./a, symlink to a"}},
		{"content", []item{top, a}, []item{top, file("./a", "test")}, []string{`/a: content: 4 bytes, at 2 "xt", 4 bytes, at 2 "st"`}},
		{"longer", []item{top, a}, []item{top, file("./a", "text\n")}, []string{`/a: content: 4 bytes, 5 bytes, at 4 "\n"`}},
		{"empty", []item{top, a}, []item{top, file("./a", "")}, []string{`/a: content: 4 bytes, at 0 "text", 0 bytes`}},
		{"far away", []item{top, file("./a", big)}, []item{top, file("./a", big[:2*chunk]+"X"+big[2*chunk+1:])},
			[]string{fmt.Sprintf(`/a: content: %d bytes, at %d "0123456789abcdef01234567", %[1]d bytes, at %d "X123456789abcdef01234567"`, 3*chunk, 2*chunk, 2*chunk)}},
		{"far away longer", []item{top, file("./a", big)}, []item{top, file("./a", big+"more")},
			[]string{fmt.Sprintf(`/a: content: %d bytes, %d bytes, at %d "more"`, 3*chunk, 3*chunk+4, 3*chunk)}},
		{"mode", []item{top, a}, []item{top, a.with(mode(0o4755))}, []string{"/a: mode: 0644, 4755"}},
		{"owner", []item{top, a}, []item{top, a.with(func(h *tar.Header) { h.Uid, h.Gid = 9000, 42 })}, []string{"/a: owner: 0:0, 9000:42"}},
		{"mtime", []item{top, a}, []item{top, a.with(func(h *tar.Header) { h.ModTime = past.Add(time.Second) })},
			[]string{"/a: mtime: 2017-07-14T02:40:00Z, 2017-07-14T02:40:01Z"}},
		{"symlink", []item{top, link(tar.TypeSymlink, "./a", "b")}, []item{top, link(tar.TypeSymlink, "./a", "c\nd")}, []string{`/a: target: b, "c\nd"`}},
		{"hard link", []item{top, a, file("./b", ""), link(tar.TypeLink, "./c", "./a")}, []item{top, a, file("./b", ""), link(tar.TypeLink, "./c", "./b")},
			[]string{"/c: target: ./a, ./b"}},
		{"xattr", []item{top, a.with(xattr("user.x", "1"))}, []item{top, a.with(xattr("user.x", "\xff"))}, []string{`/a: user.x: "1", "\xff"`}},
		{"xattrs", []item{top, a.with(xattr("user.x", ""))}, []item{top, a.with(xattr("security.capability", "1"))},
			[]string{`/a: security.capability: none, "1"`, `/a: user.x: "", none`}},
		{"of the top", []item{top}, []item{top.with(mode(0o700))}, []string{"/: mode: 0755, 0700"}},
		{"everything at once", []item{top, a.with(xattr("user.x", "1"))},
			[]item{top, file("./a", "").with(func(h *tar.Header) { h.Mode, h.Uid, h.ModTime = 0o600, 1, past.Add(-time.Hour) })},
			[]string{`/a: content: 4 bytes, at 0 "text", 0 bytes`, "/a: mode: 0644, 0600", "/a: owner: 0:0, 1:0",
				"/a: mtime: 2017-07-14T02:40:00Z, 2017-07-14T01:40:00Z", `/a: user.x: "1", none`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			first, second := tarOf(t, test.first...), tarOf(t, test.second...)
			if got := compare(t, first, second); !slices.Equal(got, test.want) {
				t.Errorf("plain: got %q, want %q", got, test.want)
			}
			if got := compare(t, packed(t, first), packed(t, second)); !slices.Equal(got, test.want) {
				t.Errorf("compressed: got %q, want %q", got, test.want)
			}
			if got := compare(t, packed(t, first), first); got != nil {
				t.Errorf("compressed and plain: got %q, want no difference", got)
			}
		})
	}
}

// TestPlain has what our own archives never hold.
func TestPlain(t *testing.T) {
	top := dir("./")
	device := item{Header: tar.Header{Typeflag: tar.TypeChar, Name: "./a", Mode: 0o666, Devmajor: 1, Devminor: 3}}
	tests := []struct {
		name          string
		first, second []item
		want          string
	}{
		{"device", []item{top, device}, []item{top, device.with(func(h *tar.Header) { h.Devminor = 5 })}, "/a: device: 1:3, 1:5"},
		{"device or file", []item{top, device}, []item{top, device.with(func(h *tar.Header) { h.Typeflag = tar.TypeBlock })}, "/a: kind: character device, block device"},
		{"owner names", []item{top}, []item{top.with(func(h *tar.Header) { h.Uname = "root" })}, "/: owner names: :, root:"},
		{"access times", []item{top}, []item{top.with(func(h *tar.Header) { h.AccessTime = past })}, "encoding: tar of 1536 bytes with SHA-256"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := compare(t, tarOf(t, test.first...), tarOf(t, test.second...))
			if len(got) != 1 || !strings.HasPrefix(got[0], test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestBadArchives(t *testing.T) {
	top := dir("./")
	good := tarOf(t, top, file("./a", strings.Repeat("text", 1000)))
	compressed := packed(t, good)
	cause := errors.New("connection reset")
	tests := []struct {
		name   string
		bad    io.Reader
		is     error
		detail string
	}{
		{"empty", strings.NewReader(""), archive.ErrDamaged, ""},
		{"text", strings.NewReader("404 not found"), archive.ErrDamaged, ""},
		{"short", bytes.NewReader(good[:1536]), archive.ErrDamaged, ""},
		{"short zstd", bytes.NewReader(compressed[:len(compressed)-10]), archive.ErrDamaged, ""},
		{"source", iotest.ErrReader(cause), cause, ""},
		{"source later", io.MultiReader(bytes.NewReader(good[:1536]), iotest.ErrReader(cause)), cause, ""},
		{"unsorted", bytes.NewReader(tarOf(t, top, file("./b", ""), file("./a", ""))), nil, "/a comes after /b: make it with"},
		{"twice", bytes.NewReader(tarOf(t, top, top)), nil, "/ comes after /"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Tarballs(t.Context(), bytes.NewReader(good), test.bad)
			if err == nil || test.is != nil && !errors.Is(err, test.is) || !strings.HasPrefix(err.Error(), "second archive: ") || !strings.Contains(err.Error(), test.detail) {
				t.Errorf("got %v, want %v %s", err, test.is, test.detail)
			}
		})
	}
	if _, err := Tarballs(t.Context(), strings.NewReader("text"), bytes.NewReader(good)); err == nil || !strings.HasPrefix(err.Error(), "first archive: ") {
		t.Errorf("got %v, want an error about the first", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := Tarballs(ctx, bytes.NewReader(good), bytes.NewReader(good)); !errors.Is(err, cause) {
		t.Errorf("cancelled: got %v, want %v", err, cause)
	}
}

func TestTable(t *testing.T) {
	list := []Difference{
		{"/", "mtime", "1", "2"},
		{"/a\n", "mode", "0644", "0755"},
		{"/a\n", "mtime", "3", "4"},
		{"/b", "entry", "fifo", ""},
		{"", "encoding", "x", "y"},
	}
	want := `path       what      first  second
"/a\n"     mode      0644   0755
/b         entry     fifo   none
(archive)  encoding  x      y
/          mtime     1      2
"/a\n"     mtime     3      4
`
	if got := Table(list, 5); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if list[0].What != "mtime" {
		t.Error("Table changed the order of the caller's list")
	}
	want = `path    what  first  second
"/a\n"  mode  0644   0755
the first 1 of 5 differences: 2 mtime, 1 encoding, 1 entry, 1 mode
`
	if got := Table(list, 1); got != want {
		t.Errorf("bounded: got\n%s\nwant\n%s", got, want)
	}
	if got := Table(nil, 3); got != "" {
		t.Errorf("none: got %q", got)
	}
}

// TestDiffoscope pins how we call it and take its exit status, with a program in its place.
func TestDiffoscope(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	got, err := Diffoscope(t.Context(), "a", "b")
	if got != "" || err != nil {
		t.Errorf("not installed: got %q, %v, want nothing", got, err)
	}
	for status, want := range []string{"", "--text=- -- a b\n"} {
		script := fmt.Sprintf("#!/bin/sh\n[ %d -eq 0 ] || echo \"$*\"\nexit %d\n", status, status)
		if err := os.WriteFile(filepath.Join(bin, "diffoscope"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		if got, err := Diffoscope(t.Context(), "a", "b"); err != nil || !strings.HasSuffix(got, want) || (got == "") != (want == "") {
			t.Errorf("status %d: got %q, %v, want %q", status, got, err, want)
		}
	}
	if err := os.WriteFile(filepath.Join(bin, "diffoscope"), []byte("#!/bin/sh\necho no such file >&2\nexit 2\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var failed *command.Error
	if _, err := Diffoscope(t.Context(), "a", "b"); !errors.As(err, &failed) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("status 2: got %v, want the program's error", err)
	}
}
