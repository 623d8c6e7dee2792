package spec

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// checkout fills a folder: a name that ends in "/" is a folder, a content that begins with
// "->" a symbolic link, in which DIR stands for the folder. It returns the path of x.toml
// in it, and every path is real, whatever TMPDIR is.
func checkout(t *testing.T, files map[string]string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		link, isLink := strings.CutPrefix(content, "->")
		switch mkdir := os.MkdirAll(filepath.Dir(path), 0o755); {
		case mkdir != nil:
			err = mkdir
		case isLink:
			err = os.Symlink(strings.Replace(link, "DIR", dir, 1), path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "x.toml")
}

func inputs(t *testing.T, file string) Inputs {
	t.Helper()
	s, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.Inputs()
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestInputs(t *testing.T) {
	public, _ := newKey(t)
	const source = "[[sources]]\nuri = 'http://h'\nsuite = "
	file := checkout(t, map[string]string{
		"variants/x.toml": "hooks = ['b.sh', '../a.sh']\n" + source + "'sid'\n" + source + "'stable'\nkey = '../k.asc'\n",
		"variants/b.sh":   "#!/bin/sh\nb",
		"a.sh":            "#!/bin/sh\na",
		"k.asc":           armored(t, openpgp.PublicKeyType, public),
	})
	// Paths do not depend on the directory that we are in.
	t.Chdir(filepath.Dir(file))
	s, err := Load(filepath.Join("variants", "x.toml"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	in, err := s.Inputs()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%q", in.Hooks), `[{"b.sh" "#!/bin/sh\nb"} {"../a.sh" "#!/bin/sh\na"}]`; got != want {
		t.Errorf("hooks: got %s, want %s", got, want)
	}
	if len(in.Keys) != 2 || in.Keys[0] != nil || !bytes.Equal(in.Keys[1], public) {
		t.Errorf("keys: got %x, want none and %x", in.Keys, public)
	}
	if got := tarOf(t, in); got != "" {
		t.Errorf("files: got %q, want none", got)
	}
}

func TestInputProblems(t *testing.T) {
	const missing = `: paths are relative to the folder of the spec`
	const source = "[[sources]]\nuri = 'http://h'\nsuite = 'sid'\nkey = "
	const machine = `, on this machine: let it lead to where the image has it`
	const hook = "#!/bin/sh\n"
	tests := []struct {
		name, spec string
		files      map[string]string
		want       string // DIR stands for the folder
	}{
		{"missing files, and more", "hooks = [\n'a',\n'b']\nconcurrency = 0\nfiles = 'c'\n" + source + "'d'", map[string]string{"a": hook},
			"DIR/x.toml:3: hooks: \"b\": there is no DIR/b" + missing + "\n" +
				"DIR/x.toml:4: concurrency is 0: use 1 to 1000\n" +
				"DIR/x.toml:5: files \"c\": there is no DIR/c" + missing + "\n" +
				"DIR/x.toml:9: sources[0].key \"d\": there is no DIR/d" + missing},
		{"absolute", "hooks = ['/a']", nil,
			`DIR/x.toml:1: hooks: "/a" is absolute: use a path relative to the folder of the spec, which can be moved with it`},
		{"hook behind a link", "hooks = ['a/b']", map[string]string{"a": "->c", "c/b": hook},
			`DIR/x.toml:1: hooks: "a/b": a symbolic link leads to it: use "c/b"`},
		{"hook that is a link", "hooks = ['a']", map[string]string{"a": "->/etc/passwd"},
			`DIR/x.toml:1: hooks: "a": a symbolic link leads to it: use "ETC/passwd"`},
		{"dangling hook", "hooks = ['a']", map[string]string{"a": "->b"},
			`DIR/x.toml:1: hooks: "a": there is no DIR/a` + missing},
		{"hook that is a folder", "hooks = ['a']", map[string]string{"a/": ""},
			`DIR/x.toml:1: hooks: "a": is no regular file: use the path of one`},
		{"empty hook", "hooks = ['a']", map[string]string{"a": ""},
			`DIR/x.toml:1: hooks: "a": is empty: write something into it, or remove it from the spec`},
		{"hook without an interpreter", "hooks = ['a']", map[string]string{"a": "echo a\n"},
			`DIR/x.toml:1: hooks: "a": does not say what runs it: begin it with a line such as #!/bin/sh`},
		{"hook from Windows", "hooks = ['a']", map[string]string{"a": "#!/bin/sh\r\necho a\r\n"},
			`DIR/x.toml:1: hooks: "a": has the line ends of Windows, so that the kernel looks for an interpreter whose name ends in a carriage return: save it with those of Unix`},
		{"no key", source + "'a'", map[string]string{"a": "key"},
			`DIR/x.toml:4: sources[0].key "a": ` + errNoKey.Error()},
		{"files that are a file", "files = 'a'", map[string]string{"a": "x"},
			`DIR/x.toml:1: files "a": is no folder: use one that is laid out like the image's root, with etc/ and so on in it`},
		{"files with the spec", "files = '.'", nil,
			`DIR/x.toml:1: files ".": has the spec itself in it, which would be in the image then: use a folder of its own`},
		{"files above the spec", "files = '../..'", nil,
			`DIR/x.toml:1: files "../..": has the spec itself in it, which would be in the image then: use a folder of its own`},
		{"files that are a link", "files = 'a'", map[string]string{"a": "->b", "b/etc/c": ""},
			`DIR/x.toml:1: files "a": a symbolic link leads to it: use "b"`},
		{"links to the outside", "files = 'a'", map[string]string{"a/etc": "->../b", "a/usr/in": "->../etc/x", "a/usr/out": "->../../b/c", "a/usr/abs": "->DIR/a/etc"},
			"DIR/x.toml:1: files: a/etc is a link to ../b" + machine + "\n" +
				"DIR/x.toml:1: files: a/usr/abs is a link to DIR/a/etc" + machine + "\n" +
				"DIR/x.toml:1: files: a/usr/out is a link to ../../b/c" + machine},
		{"Debian's links", "files = 'a'", map[string]string{"a/bin/x": "", "a/library/x": "", "a/usr/lib/x": "", "a/lib64": ""},
			"DIR/x.toml:1: files: a/bin would replace the link to usr/bin that Debian has there: move it to usr/bin\n" +
				"DIR/x.toml:1: files: a/lib64 would replace the link to usr/lib64 that Debian has there: move it to usr/lib64"},
		{"what no container sees", "files = 'a'", map[string]string{"a/home/builder/x": "", "a/home/builder.template/x": "", "a/tmp/x": ""},
			"DIR/x.toml:1: files: a/home/builder would be seen by no container, as each has a home/builder of its own: move it to home/builder.template\n" +
				"DIR/x.toml:1: files: a/tmp would be seen by no container, as each has a tmp of its own: remove it"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			files := map[string]string{"x.toml": test.spec}
			maps.Copy(files, test.files)
			file := checkout(t, files)
			dir := filepath.Dir(file)
			etc, err := filepath.Rel(dir, "/etc")
			if err != nil {
				t.Fatal(err)
			}
			want := strings.NewReplacer("DIR", dir, "ETC", etc).Replace(test.want)
			if s, err := Load(file); err == nil || err.Error() != want {
				t.Errorf("got  %+v, %v\nwant %s", s, err, want)
			}
		})
	}
}

// A spec out of a manifest has names of inputs, but no folder in which they could be.
func TestInputsWithoutFile(t *testing.T) {
	if _, err := Default().Inputs(); err != nil {
		t.Error(err)
	}
	s := Default()
	s.Hooks = []string{"a"}
	want := `hooks: "a": the spec was not read from a file, so its path leads nowhere: load the spec from its file`
	if _, err := s.Inputs(); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestSpecialFiles(t *testing.T) {
	file := checkout(t, map[string]string{"x.toml": "files = 'f'", "f/": ""})
	// A socket's path has room for 107 bytes only.
	t.Chdir(filepath.Dir(file))
	listener, err := net.Listen("unix", "f/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := syscall.Mkfifo("f/pipe", 0o644); err != nil {
		t.Fatal(err)
	}
	const help = " is a device, a socket or a pipe: remove it, an image has files, folders and symbolic links only"
	want := "x.toml:1: files: f/pipe" + help + "\nx.toml:1: files: f/socket" + help
	if _, err := Load("x.toml"); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// tarOf lists the files tar, and fails the test if it says anything of its maker.
func tarOf(t *testing.T, in Inputs) string {
	t.Helper()
	epoch := time.Unix(1_000_000_000, 0)
	var packed bytes.Buffer
	if err := in.WriteFiles(t.Context(), &packed, epoch); err != nil {
		t.Fatal(err)
	}
	var list strings.Builder
	r := tar.NewReader(&packed)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return list.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || !h.ModTime.Equal(epoch) || len(h.PAXRecords) > 0 {
			t.Errorf("got %+v, want a header with nothing of the machine", h)
		}
		fmt.Fprintf(&list, "%c%o %s %s%s\n", h.Typeflag, h.Mode, h.Name, h.Linkname, content)
	}
}

func TestFiles(t *testing.T) {
	tree := map[string]string{
		"x.toml":       "files = 'f'",
		"f/etc/b.conf": "b",
		"f/etc/b/c":    "c",
		"f/etc/a":      "->/usr/share/a",
		"f/srv/empty/": "",
		"f/usr/bin/x":  "#!/bin/sh\n",
		"f/usr/bin/y":  "->../lib/y",
	}
	file := checkout(t, tree)
	if err := os.Chmod(filepath.Join(filepath.Dir(file), "f/usr/bin/x"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := "5755 etc/ \n2777 etc/a /usr/share/a\n5755 etc/b/ \n0644 etc/b/c c\n0644 etc/b.conf b\n" +
		"5755 srv/ \n5755 srv/empty/ \n5755 usr/ \n5755 usr/bin/ \n0755 usr/bin/x #!/bin/sh\n\n2777 usr/bin/y ../lib/y\n"
	if got := tarOf(t, inputs(t, file)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	// A checkout of somebody else: umask, time stamps, setuid and sticky bits.
	other := filepath.Dir(checkout(t, tree))
	for name, mode := range map[string]os.FileMode{
		"f": 0o750, "f/etc": 0o2770, "f/etc/b": 0o1777, "f/etc/b/c": 0o600, "f/etc/b.conf": 0o666, "f/usr/bin/x": 0o4711,
	} {
		// By the system call: os.Chmod has its own numbers for the upper bits.
		if err := syscall.Chmod(filepath.Join(other, name), uint32(mode)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(other, name), time.Time{}, time.Unix(5, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if got := tarOf(t, inputs(t, filepath.Join(other, "x.toml"))); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestWriteFilesStops(t *testing.T) {
	in := inputs(t, checkout(t, map[string]string{"x.toml": "files = 'f'", "f/a": "a"}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := in.WriteFiles(ctx, io.Discard, time.Time{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	// What became unfit since it was checked.
	if err := os.Symlink("../../x.toml", filepath.Join(in.files, "b")); err != nil {
		t.Fatal(err)
	}
	want := "files: b is a link to ../../x.toml, on this machine: let it lead to where the image has it"
	if err := in.WriteFiles(t.Context(), io.Discard, time.Time{}); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Each input is part of the digest, and nothing else.
func TestDigest(t *testing.T) {
	public, _ := newKey(t)
	other, _ := newKey(t)
	const source = "\n[[sources]]\nuri = 'http://h'\nsuite = 'sid'\n"
	const spec = "hooks = ['h', 'i']\nfiles = 'f'" + source + "key = 'k'"
	base := func() map[string]string {
		return map[string]string{"x.toml": spec, "h": "#!/bin/sh\n1", "i": "#!/bin/sh\n2", "f/a": "a", "f/b": "->a", "k": string(public)}
	}
	digest := func(change func(map[string]string)) string {
		t.Helper()
		files := base()
		change(files)
		sum, err := inputs(t, checkout(t, files)).Digest(t.Context())
		if err != nil || len(sum) != 64 {
			t.Fatalf("got %q, %v, want 64 digits", sum, err)
		}
		return sum
	}
	want := digest(func(map[string]string) {})
	for name, change := range map[string]func(map[string]string){
		"same":        func(map[string]string) {},
		"armored key": func(f map[string]string) { f["k"] = armored(t, openpgp.PublicKeyType, public) },
		"moved": func(f map[string]string) {
			f["x.toml"] = strings.Replace(spec, "'h'", "'sub/h'", 1)
			f["sub/h"] = f["h"]
		},
	} {
		if got := digest(change); got != want {
			t.Errorf("%s: got %s, want the same, %s", name, got, want)
		}
	}
	seen := map[string]string{want: "unchanged"}
	for name, change := range map[string]func(map[string]string){
		"content":       func(f map[string]string) { f["f/a"] = "b" },
		"name":          func(f map[string]string) { f["f/c"] = f["f/a"]; delete(f, "f/a") },
		"link":          func(f map[string]string) { f["f/b"] = "->c" },
		"folder":        func(f map[string]string) { f["f/d/"] = "" },
		"hook":          func(f map[string]string) { f["h"] = "#!/bin/sh\n3" },
		"order":         func(f map[string]string) { f["h"], f["i"] = f["i"], f["h"] },
		"one hook less": func(f map[string]string) { f["x.toml"] = strings.Replace(spec, ", 'i'", "", 1) },
		"no files":      func(f map[string]string) { f["x.toml"] = strings.Replace(spec, "files", "#", 1) },
		"key":           func(f map[string]string) { f["k"] = string(other) },
		"no key":        func(f map[string]string) { f["x.toml"] = strings.Replace(spec, "key", "#", 1) },
	} {
		sum := digest(change)
		if same, ok := seen[sum]; ok {
			t.Errorf("%s has the digest of %s", name, same)
		}
		seen[sum] = name
	}

	dir := checkout(t, base())
	in := inputs(t, dir)
	if err := os.Chmod(filepath.Join(in.files, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := in.Digest(t.Context()); err != nil || seen[got] != "" {
		t.Errorf("executable: got the digest of %q, %v", seen[got], err)
	}
}

func newKey(t *testing.T) (public, secret []byte) {
	t.Helper()
	entity, err := openpgp.NewEntity("archive", "", "archive@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	var pub, sec bytes.Buffer
	if err := errors.Join(entity.Serialize(&pub), entity.SerializePrivate(&sec, nil)); err != nil {
		t.Fatal(err)
	}
	return pub.Bytes(), sec.Bytes()
}

func armored(t *testing.T, kind string, data []byte) string {
	t.Helper()
	var text bytes.Buffer
	w, err := armor.Encode(&text, kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return text.String() + "\n"
}

func TestPublicKeys(t *testing.T) {
	public, secret := newKey(t)
	second, _ := newKey(t)
	block := armored(t, openpgp.PublicKeyType, public)
	both := string(public) + string(second)
	for _, test := range []struct {
		name, in, want string
		err            error
	}{
		{"binary", string(public), string(public), nil},
		{"two, binary", both, both, nil},
		{"armored", block, string(public), nil},
		{"two in one block", armored(t, openpgp.PublicKeyType, []byte(both)), both, nil},
		{"two blocks", "first:\n" + block + "\nsecond:\n" + armored(t, openpgp.PublicKeyType, second), both, nil},
		{"secret", string(secret), "", errSecret},
		{"armored secret", armored(t, openpgp.PrivateKeyType, secret), "", errSecret},
		{"secret in a public block", armored(t, openpgp.PublicKeyType, secret), "", errSecret},
		{"public, then secret", block + armored(t, openpgp.PrivateKeyType, secret), "", errSecret},
		{"message", armored(t, "PGP MESSAGE", public), "", errNoKey},
		{"empty block", armored(t, openpgp.PublicKeyType, nil), "", errNoKey},
		{"truncated", string(public[:len(public)-1]), "", errNoKey},
		{"truncated block", block[:len(block)/2], "", errNoKey},
		{"no key first", "\x00" + string(public), "", errNoKey}, // and not random bytes, which now and then begin as a secret key does
		{"text", "<html>not found</html>", "", errNoKey},
		{"noise", "\xff\xfe\xfd", "", errNoKey},
	} {
		got, err := publicKeys([]byte(test.in))
		if string(got) != test.want || !errors.Is(err, test.err) {
			t.Errorf("%s: got %q, %v, want %q, %v", test.name, got, err, test.want, test.err)
		}
	}
}
