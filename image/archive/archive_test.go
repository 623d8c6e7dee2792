package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ephemeral-builder/image/command"

	"golang.org/x/sys/unix"
)

var (
	past   = time.Unix(1_500_000_000, 0)
	epoch  = time.Unix(1_700_000_000, 0)
	future = time.Unix(4_000_000_000, 0)
)

// a capability set as the kernel stores it: cap_net_raw=ep (what ping has)
var capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// a POSIX ACL as the kernel stores it: u::rw-,u:12:r--,g::r--,m::r--,o::---
var posixACL = "\x02\x00\x00\x00" +
	"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x0c\x00\x00\x00" +
	"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" +
	"\x20\x00\x00\x00\xff\xff\xff\xff"

// item is one file of a test tree. Modes are as in stat(2).
type item struct {
	name, content string // content of a file, target of a link
	kind          byte   // as in tar
	mode          uint32
	uid           int // for root
	xattrs        map[string]string
	mtime         time.Time
}

var long = strings.Repeat("long-directory-name/", 5) // 100 bytes

// everything is a tree with all that a root file system can hold, parents first.
func everything() []item {
	items := []item{
		{name: "empty", kind: tar.TypeReg, mode: 0o644},
		{name: "dir", kind: tar.TypeDir, mode: 0o755},
		{name: "dir.d", kind: tar.TypeDir, mode: 0o755, mtime: future},
		{name: "dir/file", kind: tar.TypeReg, mode: 0o640, content: "text\n"},
		{name: "dir/in-future", kind: tar.TypeReg, mode: 0o600, mtime: future},
		{name: "dir/subsecond", kind: tar.TypeReg, mode: 0o600, mtime: past.Add(999 * time.Millisecond)},
		{name: "dir/locked", kind: tar.TypeDir, mode: 0o555},
		{name: "dir/locked/file", kind: tar.TypeReg, mode: 0o444, content: "x"},
		{name: "tmp", kind: tar.TypeDir, mode: 0o1777},
		{name: "setgid", kind: tar.TypeDir, mode: 0o2755},
		{name: "setuid", kind: tar.TypeReg, mode: 0o4755, content: "#!", uid: 12},
		{name: "absolute", kind: tar.TypeSymlink, content: "/etc/passwd"},
		{name: "dangling", kind: tar.TypeSymlink, content: "../../nowhere", uid: 12},
		{name: "far", kind: tar.TypeSymlink, content: strings.Repeat("x/", 200), mtime: future},
		{name: "fifo", kind: tar.TypeFifo, mode: 0o622, uid: 12},
		{name: "names-2", kind: tar.TypeReg, mode: 0o600, content: "one file, three names"},
		{name: "names-1", kind: tar.TypeLink, content: "names-2"},
		{name: "dir/names-3", kind: tar.TypeLink, content: "names-2"},
		{name: "bad-\xff\xfe-utf8", kind: tar.TypeReg, mode: 0o644, content: "bytes"},
		{name: "ünï\n\"cödé", kind: tar.TypeReg, mode: 0o644},
		{name: strings.Repeat("n", 255), kind: tar.TypeReg, mode: 0o644, content: "longest name"},
		{name: "big", kind: tar.TypeReg, mode: 0o644, content: noise(700_001)},
		{name: "zeros", kind: tar.TypeReg, mode: 0o644, content: strings.Repeat("\x00", 300_000)},
	}
	parent := ""
	for range 3 {
		for part := range strings.SplitSeq(strings.TrimSuffix(long, "/"), "/") {
			parent = filepath.Join(parent, part)
			items = append(items, item{name: parent, kind: tar.TypeDir, mode: 0o755})
		}
		items = append(items, item{name: parent + "/deep", kind: tar.TypeReg, mode: 0o644, content: "deep"})
	}
	for i := range items {
		if items[i].mtime.IsZero() {
			items[i].mtime = past.Add(time.Duration(i) * time.Minute)
		}
	}
	return items
}

// noise is n bytes that do not compress well, the same in every run.
func noise(n int) string {
	r := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return string(b)
}

// unlockLater lets t.TempDir remove what is in directories without write permission.
func unlockLater(t *testing.T, dir string) {
	t.Cleanup(func() {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if d != nil && d.IsDir() {
				_ = os.Chmod(path, 0o700)
			}
			return nil
		})
	})
}

// plant makes the items in dir, then sets metadata, innermost first.
func plant(t *testing.T, dir string, items []item) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	unlockLater(t, dir)
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, it := range items {
		switch it.kind {
		case tar.TypeDir:
			must(os.Mkdir(at(it.name), 0o700))
		case tar.TypeReg:
			must(os.WriteFile(at(it.name), []byte(it.content), 0o600))
		case tar.TypeSymlink:
			must(os.Symlink(it.content, at(it.name)))
		case tar.TypeLink:
			must(os.Link(at(it.content), at(it.name)))
		case tar.TypeFifo:
			must(unix.Mkfifo(at(it.name), 0o600))
		}
	}
	for _, it := range slices.Backward(items) {
		if it.kind == tar.TypeLink {
			continue
		}
		if os.Geteuid() == 0 {
			must(os.Lchown(at(it.name), it.uid, it.uid))
		}
		for key, value := range it.xattrs {
			must(unix.Lsetxattr(at(it.name), key, []byte(value), 0))
		}
		if it.kind != tar.TypeSymlink {
			must(unix.Chmod(at(it.name), it.mode))
		}
		touch(t, at(it.name), it.mtime)
	}
	must(os.Chmod(dir, 0o755))
	touch(t, dir, past)
}

func touch(t *testing.T, path string, mtime time.Time) {
	t.Helper()
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(mtime.UnixNano())}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
}

// listing describes a tree, a line per file, with all that an archive keeps.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	inodes := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		name, _ := filepath.Rel(dir, path)
		var content string
		switch info.Mode().Type() {
		case 0:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(data)
			content = hex.EncodeToString(sum[:8])
		case fs.ModeSymlink:
			content, _ = os.Readlink(path)
		}
		if first, ok := inodes[stat.Ino]; ok {
			content = "same as " + first
		}
		inodes[stat.Ino] = name
		xattrs, err := xattrs(path)
		if err != nil {
			return err
		}
		mtime := min(stat.Mtim.Sec, epoch.Unix())
		lines = append(lines, fmt.Sprintf("%q mode %o owner %d:%d mtime %d xattrs %q content %q",
			name, stat.Mode, stat.Uid, stat.Gid, mtime, xattrs, content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// xattrs are the extended attributes of path that an archive keeps, "key=value", sorted.
func xattrs(path string) ([]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []string
	for key := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if !kept(key) {
			continue
		}
		n, err := unix.Lgetxattr(path, key, buf)
		if err != nil {
			return nil, err
		}
		list = append(list, key+"="+string(buf[:n]))
	}
	slices.Sort(list)
	return list, nil
}

// gnuTar is what GNU tar makes of a tree.
func gnuTar(t *testing.T, tree string, args ...string) []byte {
	t.Helper()
	version, err := command.Output(t.Context(), command.Cmd{Args: []string{"tar", "--version"}})
	if err != nil || !bytes.Contains(version, []byte("GNU tar")) {
		t.Skip("needs GNU tar: install it")
	}
	args = append([]string{"tar", "--sort=name", "--one-file-system"}, args...)
	out, err := command.Output(t.Context(), command.Cmd{
		Args: append(args, "-C", tree, "-c", "."), Env: []string{"LC_ALL=C"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// pack packs what GNU tar makes of dir.
func pack(t *testing.T, dir string, opts Options) ([]byte, Summary) {
	t.Helper()
	data, s, err := packTar(t, gnuTar(t, dir, "--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner"), opts)
	if err != nil {
		t.Fatal(err)
	}
	return data, s
}

func packTar(t *testing.T, raw []byte, opts Options) ([]byte, Summary, error) {
	t.Helper()
	var out bytes.Buffer
	s, err := Pack(t.Context(), bytes.NewReader(raw), &out, opts)
	return out.Bytes(), s, err
}

func unpack(t *testing.T, data []byte, dir string) (Summary, error) {
	t.Helper()
	unlockLater(t, dir)
	return Unpack(t.Context(), bytes.NewReader(data), dir, UnpackOptions{})
}

// headers reads the tar in data with nothing but the standard library and zstd.
func headers(t *testing.T, data []byte) []*tar.Header {
	t.Helper()
	var list []*tar.Header
	for r := tar.NewReader(bytes.NewReader(decompress(t, data))); ; {
		h, err := r.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, h)
	}
}

// xattrItems adds extended attributes to some items, as far as the file system of dir has them.
func xattrItems(t *testing.T, dir string, items []item) []item {
	t.Helper()
	probe := filepath.Join(dir, "probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(probe)
	has := func(key, value string) bool {
		err := unix.Setxattr(probe, key, []byte(value), 0)
		if err != nil {
			t.Logf("without %s: %v", key, err)
		}
		return err == nil
	}
	if has("user.test", "x") {
		items = append(items,
			item{name: "xattr", kind: tar.TypeReg, mode: 0o444, mtime: past, content: "x", xattrs: map[string]string{
				"user.b": "binary\x00\n=\xff", "user.a": "1", "user.empty": "", "user.long": strings.Repeat("v", 2000)}},
			item{name: "xattr.d", kind: tar.TypeDir, mode: 0o500, mtime: past, xattrs: map[string]string{"user.dir": "yes"}})
	}
	if has("system.posix_acl_access", posixACL) {
		items = append(items, item{name: "acl", kind: tar.TypeReg, mode: 0o640, mtime: past, content: "x",
			xattrs: map[string]string{"system.posix_acl_access": posixACL}})
	}
	if has("security.capability", capNetRaw) {
		items = append(items, item{name: "ping", kind: tar.TypeReg, mode: 0o755, mtime: past, content: "x",
			uid: 12, xattrs: map[string]string{"security.capability": capNetRaw}})
	}
	return items
}

func TestRoundTrip(t *testing.T) {
	one, two, out := t.TempDir(), t.TempDir(), t.TempDir()
	items := xattrItems(t, one, everything())
	plant(t, one, items)

	// The second copy is made in the opposite order, but for directories and targets of links first.
	rank := func(it item) int {
		switch it.kind {
		case tar.TypeDir:
			return strings.Count(it.name, "/")
		case tar.TypeLink:
			return 1000
		}
		return 100
	}
	backward := slices.Clone(items)
	slices.Reverse(backward)
	slices.SortStableFunc(backward, func(a, b item) int { return rank(a) - rank(b) })
	plant(t, two, backward)

	data, packed := pack(t, one, Options{Epoch: epoch})
	again, _ := pack(t, two, Options{Epoch: epoch})
	if !bytes.Equal(data, again) {
		t.Errorf("two copies of a tree gave different archives:\n%s\n\n%s", names(headers(t, data)), names(headers(t, again)))
	}
	if got := len(items) + 1; packed.Entries != got {
		t.Errorf("entries: got %d, want %d", packed.Entries, got)
	}
	raw := decompress(t, data)
	if sum := sha256.Sum256(raw); packed.TarSHA256 != hex.EncodeToString(sum[:]) || packed.TarSize != int64(len(raw)) {
		t.Errorf("got %+v, want %x and %d bytes", packed, sum, len(raw))
	}

	unpacked, err := unpack(t, data, out)
	if err != nil {
		t.Fatal(err)
	}
	if unpacked != packed {
		t.Errorf("unpacked: got %+v, want %+v", unpacked, packed)
	}
	if got, want := listing(t, out), listing(t, one); got != want {
		t.Errorf("got\n%s\n\nwant\n%s", got, want)
	}
	for _, it := range items {
		for key, want := range it.xattrs {
			got := make([]byte, 4096)
			n, err := unix.Lgetxattr(filepath.Join(out, it.name), key, got)
			if err != nil || string(got[:n]) != want {
				t.Errorf("%s of %s: got %q, %v, want %q", key, it.name, got[:max(n, 0)], err, want)
			}
		}
	}
	if info, _ := os.Lstat(filepath.Join(out, "dir.d")); !info.ModTime().Equal(epoch) {
		t.Errorf("mtime in the future: got %v, want %v", info.ModTime(), epoch)
	}
}

func names(list []*tar.Header) string {
	var all []string
	for _, h := range list {
		all = append(all, fmt.Sprintf("%q %c %q %v", h.Name, h.Typeflag, h.Linkname, h.ModTime.Unix()))
	}
	return strings.Join(all, "\n")
}

func TestEntries(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, []item{
		{name: "b", kind: tar.TypeReg, mode: 0o644, mtime: past},
		{name: "a", kind: tar.TypeDir, mode: 0o755, mtime: past},
		{name: "a/z", kind: tar.TypeLink, content: "b"},
		{name: "a.b", kind: tar.TypeSymlink, content: "a", mtime: past},
	})
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	if err := unix.Bind(socket, &unix.SockaddrUnix{Name: filepath.Join(dir, "socket")}); err != nil {
		t.Fatal(err)
	}
	touch(t, dir, past)

	data, _ := pack(t, dir, Options{})
	var got []string
	for _, h := range headers(t, data) {
		got = append(got, fmt.Sprintf("%c %s %s", h.Typeflag, h.Name, h.Linkname))
		if h.PAXRecords != nil || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s: got records %q, names %q %q, want none", h.Name, h.PAXRecords, h.Uname, h.Gname)
		}
	}
	want := []string{"5 ./ ", "5 ./a/ ", "0 ./a/z ", "2 ./a.b a", "1 ./b ./a/z"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// mount mounts a tmpfs on dir for the time of the test.
func mount(t *testing.T, dir, options string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root: run `sudo go test ./image/archive`")
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skip("no right to mount here: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}

func TestFullDiskWhenUnpacking(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	mount(t, dst, "size=256k")
	plant(t, src, everything())
	data, _ := pack(t, src, Options{})
	if _, err := unpack(t, data, dst); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
}

func TestCancelUnpack(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	plant(t, src, everything())
	data, _ := pack(t, src, Options{})
	cause := errors.New("stopped by test")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := Unpack(ctx, bytes.NewReader(data), dst, UnpackOptions{Progress: func(size int64) {
		if size > 100_000 {
			cancel(cause)
		}
	}})
	if !errors.Is(err, cause) || errors.Is(err, ErrDamaged) {
		t.Errorf("got %v, want %v", err, cause)
	}
}

func TestProgress(t *testing.T) {
	src := t.TempDir()
	plant(t, src, everything())
	var last int64
	rising := func(size int64) {
		if size < last {
			t.Errorf("progress went from %d to %d", last, size)
		}
		last = size
	}
	data, s := pack(t, src, Options{Progress: rising})
	if last != s.TarSize {
		t.Errorf("pack: got %d at the end, want %d", last, s.TarSize)
	}
	last = 0
	dst := t.TempDir()
	unlockLater(t, dst)
	if _, err := Unpack(t.Context(), bytes.NewReader(data), dst, UnpackOptions{Progress: rising}); err != nil {
		t.Fatal(err)
	}
	if last != s.TarSize {
		t.Errorf("unpack: got %d at the end, want %d", last, s.TarSize)
	}
}
