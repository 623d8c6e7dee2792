package lock

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var digest = strings.Repeat("0123456789abcdef", 4)

func sample() Lock {
	return Lock{
		Architecture: "amd64",
		Sources: []Source{
			{URI: "http://example.org/debian", Suite: "stable", Codename: "trixie", Date: "Sat, 21 Nov 2026 09:15:44 UTC", InRelease: digest},
			{URI: "file:///srv/own", Suite: "main", Date: "Sat, 21 Nov 2026 09:15:44 UTC", InRelease: digest},
		},
		Packages: []Package{
			{Name: "bash", Version: "5.2.37-2+b10", Architecture: "amd64", SHA256: digest, Size: 1500000, Path: "pool/main/b/bash/bash_5.2.37-2+b10_amd64.deb"},
			{Name: "tool", Version: "1:2.0~rc1", Architecture: "all", SHA256: digest, Size: 10, Source: 1, Path: "pool/tool_2.0~rc1_all.deb"},
		},
	}
}

func TestWriteAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.lock")
	want := sample()
	shuffled := sample()
	shuffled.Packages[0], shuffled.Packages[1] = shuffled.Packages[1], shuffled.Packages[0]
	if err := shuffled.Write(path); err != nil {
		t.Fatal(err)
	}
	if shuffled.Packages[0].Name != "tool" {
		t.Error("writing a lock sorted the caller's slice")
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(text), "\n"); lines != 9 {
		t.Errorf("got %d lines, want one for each source and package, and 5 more:\n%s", lines, text)
	}
}

func TestReadRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Lock)
		want   string
	}{
		{"no architecture", func(l *Lock) { l.Architecture = "" }, `architecture "" is not one of Debian's names`},
		{"no sources", func(l *Lock) { l.Sources = nil }, "it needs sources and packages"},
		{"no packages", func(l *Lock) { l.Packages = nil }, "it needs sources and packages"},
		{"password", func(l *Lock) { l.Sources[0].URI = "http://me:secret@h/" }, "source 0: uri is no http, https or file URL without"},
		{"odd scheme", func(l *Lock) { l.Sources[1].URI = "ftp://h/" }, "source 1: uri is no http, https or file URL"},
		{"no suite", func(l *Lock) { l.Sources[1].Suite = "" }, "source 1: suite is missing"},
		{"no codename", func(l *Lock) { l.Sources[0].Codename = "" }, "source 0: codename is missing"},
		{"no date", func(l *Lock) { l.Sources[1].Date = "" }, "source 1: date is missing"},
		{"no digest of a source", func(l *Lock) { l.Sources[0].InRelease = "" }, `source 0: inrelease "" is no SHA-256`},
		{"name", func(l *Lock) { l.Packages[0].Name = "Bash" }, `package 0: name "Bash"`},
		{"no version", func(l *Lock) { l.Packages[0].Version = "" }, `package bash: version "" is no Debian version`},
		{"other architecture", func(l *Lock) { l.Packages[0].Architecture = "arm64" }, `package bash: architecture "arm64" is neither amd64 nor all`},
		{"short digest", func(l *Lock) { l.Packages[0].SHA256 = "abc" }, `package bash: sha256 "abc"`},
		{"digest in upper case", func(l *Lock) { l.Packages[0].SHA256 = strings.ToUpper(digest) }, "package bash: sha256"},
		{"no size", func(l *Lock) { l.Packages[0].Size = 0 }, "package bash: size 0"},
		{"unknown source", func(l *Lock) { l.Packages[1].Source = 2 }, "package tool: source 2 is none of the 2 sources"},
		{"negative source", func(l *Lock) { l.Packages[1].Source = -1 }, "package tool: source -1"},
		{"path that leads out", func(l *Lock) { l.Packages[0].Path = "pool/../../x.deb" }, "package bash: path"},
		{"absolute path", func(l *Lock) { l.Packages[0].Path = "/pool/x.deb" }, "package bash: path"},
		{"path with a blank", func(l *Lock) { l.Packages[0].Path = "pool/x y.deb" }, "package bash: path"},
		{"no package file", func(l *Lock) { l.Packages[0].Path = "pool/x.rpm" }, "package bash: path"},
		{"listed twice", func(l *Lock) { l.Packages[1] = l.Packages[0] }, "package bash is listed twice for amd64"},
	} {
		l := sample()
		test.change(&l)
		if err := l.Validate(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error with %q", test.name, err, test.want)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the message holds the password: %v", test.name, err)
		}
		if err := l.Write(filepath.Join(t.TempDir(), "x.lock")); err == nil {
			t.Errorf("%s: it was written", test.name)
		}
	}
}

func TestReadSaysWhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.lock")
	for text, want := range map[string]string{
		"":                                     "x.lock is no lock that can be used: take it again from where it was published",
		"architecture = 'amd64'\nsuite = 'x'":  `line 2: unknown key "suite"`,
		"architecture = 'amd64'\n\nsources = ": "line 3: ",
		"architecture = 1":                     "line 1: ",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", text, err, want)
		}
	}
}

func TestURL(t *testing.T) {
	l := sample()
	l.Sources[1].URI += "/"
	for i, want := range []string{
		"http://example.org/debian/pool/main/b/bash/bash_5.2.37-2%2bb10_amd64.deb",
		"file:///srv/own/pool/tool_2.0%7erc1_all.deb",
	} {
		if got := l.URL(l.Packages[i]); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestDiff(t *testing.T) {
	old := []Entry{{"same", "1", "all"}, {"gone", "2", "all"}, {"changed", "1.0-1", "amd64"}, {"moved", "1", "all"}, {"two", "1", "amd64"}, {"two", "1", "i386"}}
	now := []Entry{{"two", "2", "i386"}, {"two", "1", "amd64"}, {"moved", "1", "amd64"}, {"changed", "1.0-2", "amd64"}, {"added", "3~rc1", "all"}, {"same", "1", "all"}}
	want := []Change{{"added", "", "3~rc1"}, {"changed", "1.0-1", "1.0-2"}, {"gone", "2", ""}, {"two", "1", "1, 2"}}
	got := Diff(old, now)
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	if got := Diff(old, old); len(got) != 0 {
		t.Errorf("a list differs from itself: %q", got)
	}

	wantTable := `package  old    new
added    -      3~rc1
changed  1.0-1  1.0-2
gone     2      -
two      1      1, 2
`
	if table := Table(got); table != wantTable {
		t.Errorf("got\n%swant\n%s", table, wantTable)
	}
	wantMarkdown := "| package | old | new |\n| --- | --- | --- |\n" +
		"| `added` | - | `3~rc1` |\n| `changed` | `1.0-1` | `1.0-2` |\n| `gone` | `2` | - |\n| `two` | `1` | `1, 2` |\n"
	if markdown := Markdown(got); markdown != wantMarkdown {
		t.Errorf("got\n%swant\n%s", markdown, wantMarkdown)
	}
	if Table(nil) != "" || Markdown(nil) != "" {
		t.Error("a table of nothing is not empty")
	}
}

func TestEntries(t *testing.T) {
	if got, want := sample().Entries()[1], (Entry{"tool", "1:2.0~rc1", "all"}); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
