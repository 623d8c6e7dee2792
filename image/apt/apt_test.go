package apt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"ephemeral-builder/image/lock"
)

// archive is a signed archive of packages that exist in its index only.
type archive struct {
	dir    string
	signer *openpgp.Entity
}

func newArchive(t *testing.T, dir string) *archive {
	t.Helper()
	signer, err := openpgp.NewEntity("an archive", "", "archive@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	return &archive{dir, signer}
}

// publish makes a suite that has one component. Packages are separated by empty lines;
// those fields that all need are added.
func (a *archive) publish(t *testing.T, suite, arch, packages string) {
	t.Helper()
	var index strings.Builder
	for text := range strings.SplitSeq(strings.TrimSpace(packages), "\n\n") {
		s := stanza(strings.TrimSpace(text))
		name, version := s.field("Package"), s.field("Version")
		fmt.Fprintf(&index, "%s\nMaintainer: x <x@example.org>\nDescription: x\n", s)
		if s.field("Architecture") == "" {
			fmt.Fprintf(&index, "Architecture: %s\n", arch)
		}
		fmt.Fprintf(&index, "Filename: ./pool/%s_%s.deb\nSize: 1000\nSHA256: %s\n\n", name, version, digest(name+version))
	}
	folder := filepath.Join(a.dir, "dists", suite)
	write(t, filepath.Join(folder, "main", "binary-"+arch, "Packages"), index.String())
	release := fmt.Sprintf("Origin: x\nSuite: %s\nCodename: code-%s\nDate: %s\nArchitectures: all %s\nComponents: main empty\nSHA256:\n %s %d main/binary-%s/Packages\n %s 0 empty/binary-%s/Packages\n",
		suite, suite, time.Now().UTC().Add(-time.Hour).Format(time.RFC1123), arch, digest(index.String()), index.Len(), arch, digest(""), arch)
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, a.signer.PrivateKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, release)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, "InRelease"), signed.String())
	write(t, filepath.Join(folder, "empty", "binary-"+arch, "Packages"), "")
}

func (a *archive) source(t *testing.T, suite string) Source {
	t.Helper()
	var key bytes.Buffer
	if err := a.signer.Serialize(&key); err != nil {
		t.Fatal(err)
	}
	return Source{URI: "file://" + strings.ReplaceAll(a.dir, " ", "%20"), Suite: suite, Components: []string{"main"}, Key: key.Bytes()}
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// program puts a shell script before all other programs of its name.
func program(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, name), "#!/bin/sh\n"+script)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func needApt(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("needs apt-get: run it on Debian or Ubuntu")
	}
}

const debian = `
Package: base-files
Version: 1
Essential: yes
Pre-Depends: awk

Package: mawk
Version: 1
Priority: required
Provides: awk
Depends: libmawk

Package: libmawk
Version: 2:1.0~rc1+b2

Package: init-system-helpers
Version: 1
Priority: required
Depends: usrmerge | usr-is-merged

Package: usrmerge
Version: 1

Package: usr-is-merged
Version: 1
Architecture: all

Package: apt
Version: 1
Priority: important

Package: g++
Version: 1
Depends: gcc (= 1)
Recommends: doc

Package: gcc
Version: 1

Package: doc
Version: 1

Package: postfix
Version: 1
Provides: mail-transport-agent, other (= 1)
Conflicts: sendmail

Package: sendmail
Version: 1
`

func names(l lock.Lock) string {
	var all []string
	for _, p := range l.Packages {
		all = append(all, p.Name+"="+p.Version)
	}
	return strings.Join(all, " ")
}

func TestResolve(t *testing.T) {
	needApt(t)
	// Blanks and what apt's file names have other characters for.
	base := filepath.Join(t.TempDir(), "a b_c~d+e")
	main, extra := newArchive(t, filepath.Join(base, "debian")), newArchive(t, filepath.Join(base, "extra"))
	main.publish(t, "stable", "amd64", debian)
	extra.publish(t, "up/dates", "amd64", `
Package: gcc
Version: 1

Package: g++
Version: 2

Package: rival
Version: 1
Essential: yes
Priority: required
`)
	o := Options{
		Sources:  []Source{main.source(t, "stable"), extra.source(t, "up/dates")},
		Arch:     "amd64",
		Packages: []string{"g++"},
		Dir:      filepath.Join(base, "cache"),
	}
	o.Sources[0].Components = []string{"main", "empty"}
	got, stanzas, err := Resolve(t.Context(), nil, o)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(got), "apt=1 base-files=1 g++=2 init-system-helpers=1 libmawk=2:1.0~rc1+b2 mawk=1 usr-is-merged=1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for i, s := range got.Sources {
		text, err := os.ReadFile(filepath.Join(base, []string{"debian/dists/stable", "extra/dists/up/dates"}[i], "InRelease"))
		if err != nil {
			t.Fatal(err)
		}
		if want := o.Sources[i]; s.URI != want.URI || s.Suite != want.Suite || s.Codename != "code-"+want.Suite || s.Date == "" || s.InRelease != digest(string(text)) {
			t.Errorf("source %d: got %+v", i, s)
		}
	}
	want := lock.Package{Name: "g++", Version: "2", Architecture: "amd64", SHA256: digest("g++2"), Size: 1000, Source: 1, Path: "pool/g++_2.deb"}
	if p := got.Packages[2]; p != want {
		t.Errorf("got %+v, want %+v", p, want)
	}
	var inStanzas []string
	for s := range (list{text: stanzas}).stanzas() {
		inStanzas = append(inStanzas, s.field("Package")+"="+s.field("Version"))
	}
	if got, want := strings.Join(inStanzas, " "), names(got); got != want {
		t.Errorf("stanzas: got %s, want %s", got, want)
	}
	if !bytes.HasSuffix(stanzas, []byte("\n\n")) {
		t.Errorf("the last stanza has no empty line after it")
	}
}

// The lists are read again if, and only if, the archive has changed.
func TestResolveAgain(t *testing.T) {
	needApt(t)
	real, err := exec.LookPath("apt-get")
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	program(t, "apt-get", fmt.Sprintf("case \"$*\" in *update*) echo update >>%s;; esac\nexec %s \"$@\"\n", log, real))
	a := newArchive(t, t.TempDir())
	o := Options{Sources: []Source{a.source(t, "stable")}, Arch: "amd64", Packages: []string{"doc"}, Dir: t.TempDir()}
	for i, test := range []struct {
		publish string
		want    string
		updates int
	}{
		{debian, "doc=1 ", 1},
		{"", "doc=1 ", 1},
		{strings.ReplaceAll(debian, "Package: doc\nVersion: 1", "Package: doc\nVersion: 1.5"), "doc=1.5 ", 2},
	} {
		if test.publish != "" {
			a.publish(t, "stable", "amd64", test.publish)
		}
		got, _, err := Resolve(t.Context(), nil, o)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(names(got), test.want) {
			t.Errorf("%d: got %s, want %s in it", i, names(got), test.want)
		}
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "update"); n != test.updates {
			t.Errorf("%d: got %d updates so far, want %d", i, n, test.updates)
		}
	}
}

// Old lists are no way out: apt itself goes on with them.
func TestResolveFailsAfterSuccess(t *testing.T) {
	needApt(t)
	a := newArchive(t, t.TempDir())
	a.publish(t, "stable", "amd64", debian)
	o := Options{Sources: []Source{a.source(t, "stable")}, Arch: "amd64", Dir: t.TempDir()}
	if _, _, err := Resolve(t.Context(), nil, o); err != nil {
		t.Fatal(err)
	}
	newArchive(t, a.dir).publish(t, "stable", "amd64", debian)
	if _, _, err := Resolve(t.Context(), nil, o); err == nil || !strings.Contains(err.Error(), "is not signed with its key") {
		t.Errorf("other signer: got %v", err)
	}
	a.publish(t, "stable", "amd64", debian+"\nPackage: new\nVersion: 1\n")
	write(t, filepath.Join(a.dir, "dists", "stable", "main", "binary-amd64", "Packages"), debian)
	if _, _, err := Resolve(t.Context(), nil, o); err == nil || !strings.Contains(err.Error(), "does not vouch for") {
		t.Errorf("other index: got %v", err)
	}
}

func TestResolveForeignArchitecture(t *testing.T) {
	needApt(t)
	a := newArchive(t, t.TempDir())
	a.publish(t, "stable", "riscv64", debian)
	o := Options{Sources: []Source{a.source(t, "stable")}, Arch: "riscv64", Packages: []string{"g++"}, Dir: t.TempDir()}
	got, _, err := Resolve(t.Context(), nil, o)
	if err != nil {
		t.Fatal(err)
	}
	if p := got.Packages[slices.IndexFunc(got.Packages, func(p lock.Package) bool { return p.Name == "gcc" })]; p.Architecture != "riscv64" {
		t.Errorf("got %+v", p)
	}
}

func TestResolveAtOnce(t *testing.T) {
	needApt(t)
	a := newArchive(t, t.TempDir())
	a.publish(t, "stable", "amd64", debian)
	o := Options{Sources: []Source{a.source(t, "stable")}, Arch: "amd64", Dir: t.TempDir()}
	var all sync.WaitGroup
	for _, name := range []string{"doc", "gcc", "g++"} {
		all.Go(func() {
			o := o
			o.Packages = []string{name}
			if got, _, err := Resolve(t.Context(), nil, o); err != nil || !strings.Contains(names(got), name+"=1") {
				t.Errorf("%s: got %s, %v", name, names(got), err)
			}
		})
	}
	all.Wait()
}

func TestResolveFails(t *testing.T) {
	needApt(t)
	a := newArchive(t, t.TempDir())
	a.publish(t, "stable", "amd64", debian)
	a.publish(t, "broken", "amd64", debian)
	write(t, filepath.Join(a.dir, "dists", "broken", "main", "binary-amd64", "Packages"), strings.ReplaceAll(debian, "1", "2"))
	tampered := newArchive(t, t.TempDir())
	tampered.publish(t, "stable", "amd64", debian)
	inRelease := filepath.Join(tampered.dir, "dists", "stable", "InRelease")
	text, err := os.ReadFile(inRelease)
	if err != nil {
		t.Fatal(err)
	}
	write(t, inRelease, strings.Replace(string(text), "Origin: x", "Origin: y", 1))
	stranger := newArchive(t, t.TempDir())

	for _, test := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"unknown suite", func(o *Options) { o.Sources[0].Suite = "stabel" }, `suite "stabel" is not on file://`},
		{"unknown component", func(o *Options) { o.Sources[0].Components = []string{"mian"} }, `has no component "mian": it has main, empty`},
		{"other architecture", func(o *Options) { o.Arch = "s390x" }, "has no packages for s390x: it has all, amd64"},
		{"no archive", func(o *Options) { o.Sources[0].URI += "/none" }, `suite "stable" is not on`},
		{"wrong key", func(o *Options) { o.Sources[0].Key = stranger.source(t, "").Key }, "is not signed with its key: check the key in the spec"},
		{"changed after signing", func(o *Options) { o.Sources[0] = tampered.source(t, "stable") }, "is not signed with its key"},
		{"changed index", func(o *Options) { o.Sources[0].Suite = "broken" }, "has an index that its Release file does not vouch for"},
		{"misspelt packages", func(o *Options) { o.Packages = []string{"gccc", "zzzzzzzz", "doc"} },
			"package \"gccc\" is in no source: did you mean \"gcc\"?\npackage \"zzzzzzzz\" is in no source: check its name"},
		{"regular expression", func(o *Options) { o.Packages = []string{"g.."} }, `package "g.." is in no source`},
		{"virtual package", func(o *Options) { o.Packages = []string{"mail-transport-agent"} }, "choose a package that provides it: postfix"},
		{"conflict", func(o *Options) { o.Packages = []string{"sendmail", "postfix"} }, "the packages can't be installed together: leave some out, or use another suite:\n    "},
		{"words", func(o *Options) { o.Sources[0].Suite = "stable\nTrusted: yes" }, "must be one word"},
	} {
		o := Options{Sources: []Source{a.source(t, "stable")}, Arch: "amd64", Packages: []string{"doc"}, Dir: t.TempDir()}
		test.change(&o)
		_, _, err := Resolve(t.Context(), nil, o)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error with %q", test.name, err, test.want)
		} else if lines := strings.Count(err.Error(), "\n"); lines > 6 {
			t.Errorf("%s: got %d lines, want a short error:\n%v", test.name, lines, err)
		}
	}
}

func TestResolveEndsWithItsContext(t *testing.T) {
	needApt(t)
	a := newArchive(t, t.TempDir())
	a.publish(t, "stable", "amd64", debian)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	cancel(why)
	_, _, err := Resolve(ctx, nil, Options{Sources: []Source{a.source(t, "stable")}, Arch: "amd64", Dir: t.TempDir()})
	if !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
}
