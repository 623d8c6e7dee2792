package release

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"golang.org/x/sys/unix"

	"ephemeral-builder/image/archive"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/openpgp"
	"ephemeral-builder/image/sums"
)

var made = time.Now().Add(-24 * time.Hour).Truncate(time.Second)

func privateKey(t *testing.T) string {
	t.Helper()
	e, err := pgp.NewEntity("release", "", "release@example.org",
		&packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return made }})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := armor.Encode(&out, pgp.PrivateKeyType, nil)
	if err == nil {
		err = errors.Join(e.SerializePrivateWithoutSigning(w, nil), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func signer(t *testing.T) *openpgp.Signer {
	t.Helper()
	s, err := openpgp.LoadSigner(privateKey(t), "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// put builds a tiny image in dir, with packages like "bash 5.2".
func put(t *testing.T, dir, stem string, packages ...string) {
	t.Helper()
	putSized(t, dir, stem, 1000, packages...)
}

func putSized(t *testing.T, dir, stem string, size int, packages ...string) {
	t.Helper()
	noise := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32.32s", stem)))).Read(noise)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var tree, packed bytes.Buffer
	w := tar.NewWriter(&tree)
	err := errors.Join(
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755, ModTime: made}),
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./noise", Mode: 0o644, ModTime: made, Size: int64(size)}))
	if err == nil {
		_, err = w.Write(noise)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	summary, err := archive.Pack(t.Context(), &tree, &packed, archive.Options{Epoch: made})
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Split(stem, "_")
	type pkg = map[string]string
	list := []pkg{}
	for _, p := range packages {
		n, version, _ := strings.Cut(p, " ")
		list = append(list, pkg{"name": n, "version": version, "architecture": "amd64"})
	}
	manifest, err := json.Marshal(map[string]any{
		"name": name[0], "version": name[1], "architecture": name[2], "codename": "trixie", "release_date": "a Saturday",
		"tar": map[string]any{"sha256": summary.TarSHA256, "size": summary.TarSize}, "packages": list,
	})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{".tar.zst": packed.Bytes(), ".manifest.json": manifest, ".lock": []byte("lock of " + stem)}
	var names []string
	for suffix, data := range files {
		write(t, filepath.Join(dir, stem+suffix), data)
		names = append(names, stem+suffix)
	}
	enlist(t, dir, names...)
}

// enlist hashes files anew for SHA256SUMS, and forgets those that are gone.
func enlist(t *testing.T, dir string, names ...string) {
	t.Helper()
	if err := sums.Update(t.Context(), dir, names...); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func publish(t *testing.T, o Options) Result {
	t.Helper()
	r, err := Make(t.Context(), nil, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// state describes a folder and all in it, down to inodes: what a change changes.
func state(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var sum [32]byte
		if d.Type().IsRegular() {
			sum = sha256.Sum256([]byte(contents(t, path)))
		}
		rel, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&text, "%s %v inode %d %x\n", rel, info.Mode(), info.Sys().(*syscall.Stat_t).Ino, sum[:4])
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return text.String()
}

func ls(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func with(stem string, suffixes ...string) []string {
	for i := range suffixes {
		suffixes[i] = stem + suffixes[i]
	}
	return suffixes
}

// all are the files of an image that put has built.
func all(stem string) []string {
	return with(stem, ".lock", ".manifest.json", ".md", ".tar.xz", ".tar.zst")
}

// folders returns names of a folder of builds and one to publish in, alone in its parent.
func folders(t *testing.T) (from, out string) {
	t.Helper()
	return filepath.Join(t.TempDir(), "dist"), filepath.Join(t.TempDir(), "public")
}

func TestPublish(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077)) // must not matter
	from, out := folders(t)
	put(t, from, "php_1_x86-64", "bash 5.2", "php 8.4")
	s := signer(t)
	r := publish(t, Options{From: from, Out: out, Signer: s, Time: made.Add(time.Hour)})
	if !r.Changed || !slices.Equal(r.Added, []string{"php_1_x86-64"}) || len(r.Images) != 1 || !slices.Equal(r.Images[0].Files, all("php_1_x86-64")) {
		t.Errorf("got %+v", r)
	}
	want := slices.Concat([]string{"SHA256SUMS", "SHA256SUMS.gpg", KeyringName}, all("php_1_x86-64"), []string{KeyName})
	if got := ls(t, out); !slices.Equal(got, want) {
		t.Errorf("got files %q, want %q", got, want)
	}

	var text strings.Builder
	for _, name := range want[2:] {
		fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256([]byte(contents(t, filepath.Join(out, name)))), name)
	}
	ring, err := openpgp.ReadKeyring(filepath.Join(out, KeyringName))
	if err != nil {
		t.Fatal(err)
	}
	signed, fingerprint, err := ring.VerifyFile(filepath.Join(out, sums.Name))
	if err != nil || string(signed) != text.String() || fingerprint != s.Fingerprint() {
		t.Errorf("got %s by %s, %v, want %s by %s", signed, fingerprint, err, &text, s.Fingerprint())
	}
	if _, err := openpgp.ReadKeyring(filepath.Join(out, KeyName)); err != nil {
		t.Error(err)
	}

	tar, err := command.Output(t.Context(), command.Cmd{Args: []string{"xz", "-dc", filepath.Join(out, "php_1_x86-64.tar.xz")}})
	sum := sha256.Sum256(tar)
	if want := r.Images[0].Manifest.Tar; err != nil || hex.EncodeToString(sum[:]) != want.SHA256 {
		t.Errorf("tar.xz holds %x, %v, want %s", sum, err, want.SHA256)
	}
	for _, name := range want {
		if info, _ := os.Stat(filepath.Join(out, name)); info.Mode() != 0o644 {
			t.Errorf("%s: got mode %v, want 0644", name, info.Mode())
		}
	}
	if info, _ := os.Stat(out); info.Mode() != fs.ModeDir|0o755 {
		t.Errorf("got mode %v, want 0755", info.Mode())
	}
}

func TestSecondRunChangesNothing(t *testing.T) {
	from, out := folders(t)
	put(t, from, "php_1_x86-64")
	o := Options{From: from, Out: out, Signer: signer(t), Keep: 1, Generators: []Generator{transfer, tree}, Trees: []string{"oci"}}
	publish(t, o)
	before := state(t, filepath.Dir(out))
	o.Time = made.Add(time.Hour) // would be another signature
	if r := publish(t, o); r.Changed || len(r.Added)+len(r.Removed) > 0 || len(r.Images) != 1 {
		t.Errorf("got %+v, want no change", r)
	}
	if got := state(t, filepath.Dir(out)); got != before {
		t.Errorf("got\n%s\nwant\n%s", got, before)
	}
}

// transfer and tree are generators, as simple as can be.
func transfer(_ context.Context, dir string, images []Image) error {
	return os.WriteFile(filepath.Join(dir, images[0].Manifest.Name+".transfer"), []byte("[Transfer]\n"), 0o600)
}

func tree(_ context.Context, dir string, images []Image) error {
	if err := os.MkdirAll(filepath.Join(dir, "oci", "blobs"), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "oci", "blobs", "index.json"), fmt.Append(nil, len(images)), 0o600)
}

func TestNextVersion(t *testing.T) {
	from, out := folders(t)
	o := Options{From: from, Out: out, Signer: signer(t), Generators: []Generator{transfer, tree}, Trees: []string{"oci"}}
	put(t, from, "php_9_x86-64", "bash 5.2", "gone 1", "same 1")
	publish(t, o)
	write(t, filepath.Join(out, "index.html"), []byte("ours it is not"))
	if err := os.Symlink("index.html", filepath.Join(out, "default.html")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(out, fs.ModeSetgid|0o750); err != nil {
		t.Fatal(err)
	}
	old, err := os.Stat(filepath.Join(out, "php_9_x86-64.tar.xz"))
	if err != nil {
		t.Fatal(err)
	}

	o.From = filepath.Join(t.TempDir(), "other")
	put(t, o.From, "php_10_x86-64", "bash 5.3", "new 1", "same 1")
	r := publish(t, o)
	if !slices.Equal(r.Added, []string{"php_10_x86-64"}) || len(r.Images) != 2 || r.Images[0].Manifest.Version != "10" {
		t.Errorf("got %+v", r)
	}
	kept, err := os.Stat(filepath.Join(out, "php_9_x86-64.tar.xz"))
	if err != nil || !os.SameFile(old, kept) {
		t.Errorf("the version before was not kept as it was, %v", err)
	}
	want := slices.Concat([]string{KeyringName}, all("php_10_x86-64"), []string{"php.transfer"}, all("php_9_x86-64"), []string{KeyName})
	slices.Sort(want)
	listed, err := sums.Read(out)
	if got := slices.Sorted(maps.Keys(listed)); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for name := range listed {
		if err := sums.Verify(t.Context(), out, name); err != nil {
			t.Error(err)
		}
	}
	if got := contents(t, filepath.Join(out, "default.html")); got != "ours it is not" {
		t.Errorf("got %q behind the link of the administrator", got)
	}
	if info, _ := os.Stat(out); info.Mode() != fs.ModeDir|fs.ModeSetgid|0o750 {
		t.Errorf("got mode %v of the folder, want it as it was", info.Mode())
	}
	if got := contents(t, filepath.Join(out, "oci", "blobs", "index.json")); got != "2" {
		t.Errorf("the generator saw %s images, want 2", got)
	}

	notes := contents(t, filepath.Join(out, "php_10_x86-64.md"))
	for _, line := range []string{"## Packages since 9", "`5.2`", "| `gone` | `1` | - |", "| `new` | - | `1` |"} {
		if !strings.Contains(notes, line) {
			t.Errorf("got notes without %q:\n%s", line, notes)
		}
	}
	if strings.Contains(notes, "same") {
		t.Errorf("got notes with a package that did not change:\n%s", notes)
	}
	if got := contents(t, filepath.Join(out, "php_9_x86-64.md")); !strings.Contains(got, "first version") {
		t.Errorf("got %q of the first version", got)
	}
	if got := ls(t, filepath.Dir(out)); !slices.Equal(got, []string{"public"}) {
		t.Errorf("got %q, want nothing left beside the folder", got)
	}
}

func TestKeep(t *testing.T) {
	from, out := folders(t)
	s := signer(t)
	for _, stem := range []string{"php_9_x86-64", "php_8_x86-64", "php_8_arm64", "cpp_1_x86-64"} {
		put(t, from, stem)
	}
	publish(t, Options{From: from, Out: out, Signer: s})
	put(t, from, "php_10_x86-64")
	put(t, from, "php_7_x86-64")
	put(t, from, "php_10~rc1_x86-64")
	r := publish(t, Options{From: from, Out: out, Signer: s, Keep: 2})
	var stems []string
	for _, img := range r.Images {
		stems = append(stems, img.Manifest.Stem())
	}
	if want := []string{"cpp_1_x86-64", "php_8_arm64", "php_10_x86-64", "php_10~rc1_x86-64"}; !slices.Equal(stems, want) {
		t.Errorf("published: got %q, want %q", stems, want)
	}
	if want := []string{"php_9_x86-64", "php_8_x86-64"}; !slices.Equal(r.Removed, want) {
		t.Errorf("removed: got %q, want %q", r.Removed, want)
	}
	if want := []string{"php_7_x86-64"}; !slices.Equal(r.Skipped, want) {
		t.Errorf("skipped: got %q, want %q", r.Skipped, want)
	}
	for _, name := range ls(t, out) {
		if stem := stemOf(name); stem != "" && !slices.Contains(stems, stem) {
			t.Errorf("%s is still there", name)
		}
	}
	// The version before counts for the notes though it goes with this release.
	if notes := contents(t, filepath.Join(out, "php_10~rc1_x86-64.md")); !strings.Contains(notes, "since 9") {
		t.Errorf("got %s", notes)
	}
	// What goes and is still among the builds must not come back.
	if r := publish(t, Options{From: from, Out: out, Signer: s, Keep: 2}); r.Changed {
		t.Errorf("second run: got %+v", r)
	}
}

// TestErrors spoils one thing at a time. The published folder must be as it was.
func TestErrors(t *testing.T) {
	const stem = "php_2_x86-64"
	s, other := signer(t), signer(t)
	at := func(dir, suffix string) string { return filepath.Join(dir, stem+suffix) }
	tests := []struct {
		name  string
		spoil func(t *testing.T, o *Options)
		want  string
		is    error
	}{
		{"tampered", func(t *testing.T, o *Options) {
			data := []byte(contents(t, at(o.From, ".tar.zst")))
			data[len(data)/2] ^= 1
			write(t, at(o.From, ".tar.zst"), data)
		}, "fetch both again", sums.ErrMismatch},
		{"truncated", func(t *testing.T, o *Options) { os.Truncate(at(o.From, ".lock"), 1) }, "", sums.ErrMismatch},
		{"missing file", func(t *testing.T, o *Options) { os.Remove(at(o.From, ".lock")) }, "", sums.ErrMissing},
		{"no sums", func(t *testing.T, o *Options) { os.Remove(filepath.Join(o.From, sums.Name)) }, "", sums.ErrNoSums},
		{"no builds", func(t *testing.T, o *Options) { o.From += ".none" }, "go tool mage build", fs.ErrNotExist},
		{"no image", func(t *testing.T, o *Options) { write(t, filepath.Join(o.From, sums.Name), nil) }, "has no image", nil},
		{"no manifest", func(t *testing.T, o *Options) {
			os.Remove(at(o.From, ".manifest.json"))
			enlist(t, o.From)
		}, "manifest.json", sums.ErrNotListed},
		{"manifest of another", func(t *testing.T, o *Options) {
			write(t, at(o.From, ".manifest.json"), []byte(`{"name":"php","version":"3","architecture":"x86-64"}`))
			enlist(t, o.From, stem+".manifest.json")
		}, "is the manifest of php_3_x86-64", nil},
		{"no such tar", func(t *testing.T, o *Options) {
			text := contents(t, at(o.From, ".manifest.json"))
			write(t, at(o.From, ".manifest.json"), []byte(strings.Replace(text, `"sha256":"`, `"sha256":"0`, 1)))
			enlist(t, o.From, stem+".manifest.json")
		}, "does not hold the tar of its manifest", nil},
		{"no archive", func(t *testing.T, o *Options) {
			write(t, at(o.From, ".tar.zst"), []byte("text"))
			enlist(t, o.From, stem+".tar.zst")
		}, "build the image again", archive.ErrDamaged},
		{"half an archive", func(t *testing.T, o *Options) {
			os.Truncate(at(o.From, ".tar.zst"), 700)
			enlist(t, o.From, stem+".tar.zst")
		}, "build the image again", archive.ErrDamaged},
		{"sha256 file among the builds", func(t *testing.T, o *Options) {
			write(t, at(o.From, ".tar.xz.sha256"), nil)
			enlist(t, o.From, stem+".tar.xz.sha256")
		}, "remove it", nil},
		{"other contents", func(t *testing.T, o *Options) {
			write(t, filepath.Join(o.From, "php_1_x86-64.lock"), []byte("changed"))
			enlist(t, o.From, "php_1_x86-64.lock")
		}, "php_1_x86-64.lock is published already with other contents", nil},
		{"version", func(t *testing.T, o *Options) { put(t, o.From, "php_beta_x86-64") }, "can't be compared", nil},
		{"no key", func(t *testing.T, o *Options) { o.Signer = nil }, "say -key=FILE or set EPHEMERAL_BUILDER_SIGNING_KEY, or publish without with -unsigned", nil},
		{"key and unsigned", func(t *testing.T, o *Options) { o.Unsigned = true }, "leave out one", nil},
		{"negative", func(t *testing.T, o *Options) { o.Keep = -1 }, "0 for all", nil},
		{"onto the builds", func(t *testing.T, o *Options) { o.Out = o.From }, "the folder of the builds", nil},
		{"onto a file", func(t *testing.T, o *Options) { o.Out = at(o.From, ".lock") }, "not a folder", nil},
		{"onto others' files", func(t *testing.T, o *Options) { o.Out = t.TempDir(); write(t, o.Out+"/thesis", nil) }, "nothing was published there", nil},
		{"onto a dangling link", func(t *testing.T, o *Options) {
			o.Out = filepath.Join(t.TempDir(), "link")
			os.Symlink("nowhere", o.Out)
		}, "leads nowhere", nil},
		{"published file altered", func(t *testing.T, o *Options) { write(t, filepath.Join(o.Out, "php_1_x86-64.tar.xz"), nil) }, "what is published is damaged", sums.ErrMismatch},
		{"published file removed", func(t *testing.T, o *Options) { os.Remove(filepath.Join(o.Out, "php_1_x86-64.tar.xz")) }, "", sums.ErrMissing},
		{"published sums altered", func(t *testing.T, o *Options) {
			write(t, filepath.Join(o.Out, "php_1_x86-64.tar.xz"), []byte("hostile"))
			enlist(t, o.Out, "php_1_x86-64.tar.xz")
		}, "-adopt", openpgp.ErrAltered},
		{"other key", func(t *testing.T, o *Options) { o.Signer = other }, "-adopt", openpgp.ErrWrongKey},
		{"published without signature", func(t *testing.T, o *Options) { os.Remove(filepath.Join(o.Out, sums.Name+".gpg")) }, "-adopt", openpgp.ErrNoSignature},
		{"unlisted image", func(t *testing.T, o *Options) { write(t, at(o.Out, ".tar.xz"), nil) }, "remove it", sums.ErrNotListed},
		{"sha256 file", func(t *testing.T, o *Options) { write(t, at(o.Out, ".tar.xz.sha256"), nil) }, "remove it", nil},
		{"folder of others", func(t *testing.T, o *Options) { os.Mkdir(filepath.Join(o.Out, "private"), 0o755) }, "move it away", nil},
		{"generator fails", func(t *testing.T, o *Options) {
			o.Generators = []Generator{tree, func(context.Context, string, []Image) error { return syscall.ENOSPC }}
		}, "free space there", syscall.ENOSPC},
		{"generator makes a folder of its own", func(t *testing.T, o *Options) {
			o.Generators = []Generator{func(_ context.Context, dir string, _ []Image) error { return os.Mkdir(dir+"/own", 0o755) }}
		}, "name it in Trees", nil},
		{"generator makes a sha256 file", func(t *testing.T, o *Options) {
			o.Generators = []Generator{func(_ context.Context, dir string, _ []Image) error { return os.WriteFile(dir+"/x.sha256", nil, 0o600) }}
		}, "leave it out", nil},
		{"can't be exchanged", func(t *testing.T, o *Options) { o.exchange = func(string, string) error { return unix.EXDEV } }, "on this file system", unix.EXDEV},
		{"canceled", func(t *testing.T, o *Options) {
			o.Generators = []Generator{func(context.Context, string, []Image) error { return context.Canceled }}
		}, "", context.Canceled},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			from, out := folders(t)
			o := Options{From: from, Out: out, Signer: s, Generators: []Generator{tree}, Trees: []string{"oci"}}
			put(t, from, "php_1_x86-64")
			publish(t, o)
			put(t, from, stem)
			test.spoil(t, &o)
			before := state(t, filepath.Dir(o.Out))
			_, err := Make(t.Context(), nil, o)
			if err == nil || !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("got %v, want %v with %q", err, test.is, test.want)
			}
			if got := state(t, filepath.Dir(o.Out)); got != before {
				t.Errorf("got\n%s\nwant it as it was:\n%s", got, before)
			}
		})
	}
}

func TestCancel(t *testing.T) {
	from, out := folders(t)
	put(t, from, "php_1_x86-64")
	cause := errors.New("stopped by test")
	ctx, cancel := context.WithCancelCause(t.Context())
	o := Options{From: from, Out: out, Unsigned: true, Generators: []Generator{func(context.Context, string, []Image) error { cancel(cause); return nil }}}
	if _, err := Make(ctx, nil, o); !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
	if got := ls(t, filepath.Dir(out)); len(got) > 0 {
		t.Errorf("got %q, want nothing published", got)
	}
}

func TestAdopt(t *testing.T) {
	from, out := folders(t)
	put(t, from, "php_1_x86-64")
	if r := publish(t, Options{From: from, Out: out, Unsigned: true}); !r.Changed {
		t.Errorf("got %+v", r)
	}
	for _, name := range ls(t, out) {
		if slices.Contains([]string{sums.Name + ".gpg", KeyName, KeyringName}, name) {
			t.Errorf("got %s without a key", name)
		}
	}
	if r := publish(t, Options{From: from, Out: out, Unsigned: true}); r.Changed {
		t.Errorf("second run: got %+v", r)
	}
	for range 2 { // the second key takes over from the first
		s := signer(t)
		if _, err := Make(t.Context(), nil, Options{From: from, Out: out, Signer: s}); err == nil {
			t.Error("signed what is not known to be ours")
		}
		publish(t, Options{From: from, Out: out, Signer: s, Adopt: true})
		if r := publish(t, Options{From: from, Out: out, Signer: s}); r.Changed {
			t.Errorf("afterwards: got %+v", r)
		}
	}
}

func TestThroughALink(t *testing.T) {
	from, out := folders(t)
	put(t, from, "php_1_x86-64")
	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.Mkdir(out, 0o755), os.Symlink(out, link)); err != nil {
		t.Fatal(err)
	}
	publish(t, Options{From: from, Out: link, Unsigned: true})
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != fs.ModeSymlink {
		t.Errorf("the link is gone: %v, %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(out, sums.Name)); err != nil {
		t.Error(err)
	}
}

// TestWithoutExchange is for file systems that can't exchange two names.
func TestWithoutExchange(t *testing.T) {
	for _, reason := range []error{unix.EINVAL, unix.ENOSYS} {
		from, out := folders(t)
		put(t, from, "php_1_x86-64")
		o := Options{From: from, Out: out, Unsigned: true, exchange: func(string, string) error { return reason }}
		publish(t, o)
		put(t, from, "php_2_x86-64")
		if r := publish(t, o); !r.Changed || len(r.Images) != 2 {
			t.Errorf("%v: got %+v", reason, r)
		}
		if got := ls(t, filepath.Dir(out)); !slices.Equal(got, []string{"public"}) {
			t.Errorf("%v: got %q", reason, got)
		}

		// Killed between the two renames.
		before := state(t, out)
		if err := errors.Join(os.Rename(out, out+".old-123"), os.Mkdir(out+".new-123", 0o755), os.Mkdir(out+".new-guide", 0o755)); err != nil {
			t.Fatal(err)
		}
		if r := publish(t, o); r.Changed || len(r.Images) != 2 {
			t.Errorf("%v: after a kill: got %+v", reason, r)
		}
		if got := state(t, out); got != before {
			t.Errorf("%v: after a kill: got\n%s\nwant\n%s", reason, got, before)
		}
		if got := ls(t, filepath.Dir(out)); !slices.Equal(got, []string{"public", "public.new-guide"}) {
			t.Errorf("%v: after a kill: got %q", reason, got)
		}
	}
}

// toBeKilled makes this test binary a release from the first path in its value to the second,
// which is killed in the midst of it.
const toBeKilled = "RELEASE_TEST_KILLED"

func TestMain(m *testing.M) {
	if from, out, ok := strings.Cut(os.Getenv(toBeKilled), ":"); ok {
		_, err := Make(context.Background(), nil, Options{From: from, Out: out, Unsigned: true,
			Generators: []Generator{func(context.Context, string, []Image) error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) }}})
		fmt.Fprintln(os.Stderr, "not killed:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestKilled(t *testing.T) {
	from, out := folders(t)
	put(t, from, "php_1_x86-64")
	publish(t, Options{From: from, Out: out, Unsigned: true})
	put(t, from, "php_2_x86-64")
	before := state(t, out)
	err := command.Run(t.Context(), command.Cmd{Args: []string{os.Args[0]}, Env: []string{toBeKilled + "=" + from + ":" + out}})
	if err == nil || !strings.Contains(err.Error(), "signal: killed") {
		t.Fatalf("got %v, want it killed", err)
	}
	if got := state(t, out); got != before {
		t.Errorf("got\n%s\nwant it as it was:\n%s", got, before)
	}
	if got := ls(t, filepath.Dir(out)); len(got) != 2 {
		t.Errorf("got %q, want what the killed release left", got)
	}
	if r := publish(t, Options{From: from, Out: out, Unsigned: true}); len(r.Images) != 2 {
		t.Errorf("got %+v", r)
	}
	if got := ls(t, filepath.Dir(out)); !slices.Equal(got, []string{"public"}) {
		t.Errorf("got %q, want the rest removed", got)
	}
}

// TestConcurrent lets several publish at the same time, each from its own builds, while others read.
func TestConcurrent(t *testing.T) {
	_, out := folders(t)
	first := filepath.Join(t.TempDir(), "dist")
	put(t, first, "php_0_x86-64")
	publish(t, Options{From: first, Out: out, Unsigned: true})

	done := make(chan struct{})
	var readers, writers sync.WaitGroup
	readers.Go(func() {
		for {
			// One open folder is one state: what it lists, it has.
			root, err := os.OpenRoot(out)
			if err != nil {
				t.Errorf("a reader found no folder: %v", err)
				return
			}
			text, err := root.ReadFile(sums.Name)
			root.Close()
			if err != nil && !errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.Contains(text, []byte("php_0_x86-64.tar.xz\n")) {
				t.Errorf("a reader found %q, %v", text, err)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for i := range 4 {
		from := filepath.Join(t.TempDir(), "dist")
		put(t, from, fmt.Sprintf("php_%d_x86-64", i+1))
		writers.Go(func() {
			if _, err := Make(t.Context(), nil, Options{From: from, Out: out, Unsigned: true}); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	if r := publish(t, Options{From: first, Out: out, Unsigned: true}); len(r.Images) != 5 || r.Changed {
		t.Errorf("got %d versions, want 5", len(r.Images))
	}
}

func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root: run `sudo go test ./image/release`")
	}
	from := filepath.Join(t.TempDir(), "dist")
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=3m"); err != nil {
		t.Skip("no right to mount here: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	out := filepath.Join(small, "public")
	put(t, from, "php_1_x86-64")
	publish(t, Options{From: from, Out: out, Unsigned: true})
	before := state(t, small)
	for _, size := range []int{2 << 20, 4 << 20} { // full in the .tar.xz, and in the copy of the .tar.zst
		more := filepath.Join(t.TempDir(), "dist")
		putSized(t, more, "php_2_x86-64", size)
		_, err := Make(t.Context(), nil, Options{From: more, Out: out, Unsigned: true})
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free space there") {
			t.Errorf("%d bytes: got %v, want ENOSPC", size, err)
		}
		if got := state(t, small); got != before {
			t.Errorf("%d bytes: got\n%s\nwant it as it was:\n%s", size, got, before)
		}
	}
	if _, err := Make(t.Context(), nil, Options{From: from, Out: small, Unsigned: true}); err == nil || !strings.Contains(err.Error(), "give a folder in it") {
		t.Errorf("onto a mount point: got %v", err)
	}
}
