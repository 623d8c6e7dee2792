package spec

import (
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestLoadAll(t *testing.T) {
	dir := filepath.Dir(checkout(t, map[string]string{
		"many/b.toml": "name = 'b'\nhooks = ['h']", "many/a.toml": "name = 'z'", "many/c.toml": "name = 'b'\narch = '" + otherArch() + "'",
		"many/h": "#!/bin/sh\n", "many/README": "", "many/folder.toml/d.toml": "name = 'd'",
		"bad/a.toml": "name = 'a'", "bad/b.toml": "name = 'B'\nhooks = ['h']", "bad/c.toml": "name = 'a'\narch = '" + runtime.GOARCH + "'", "bad/d.toml": "uid = 1",
		"none/README": "",
	}))
	t.Chdir(dir)
	for _, test := range []struct{ path, names, err string }{
		{"", "ephemeral-builder", ""},
		{"many/a.toml", "z", ""},
		{"many", "z b b-" + otherArch(), ""},
		{"none", "", "none has no *.toml in it: name a spec, or a folder with specs"},
		{"absent", "", "open absent: no such file or directory: name a spec that exists, or none for ephemeral-builder.toml or the defaults"},
		{"bad", "", "bad/b.toml:1: name \"B\": use lower-case letters, digits and single hyphens, a letter first and no hyphen last\n" +
			"bad/b.toml:2: hooks: \"h\": there is no " + filepath.Join(dir, "bad/h") + ": paths are relative to the folder of the spec\n" +
			"bad/a.toml and bad/c.toml both describe a for " + runtime.GOARCH + ": change the name in one of them\n" +
			`bad/d.toml:1: unknown key "uid": did you mean "user.uid"?`},
	} {
		specs, err := LoadAll(test.path)
		var names []string
		for _, s := range specs {
			if s.Arch != "" {
				s.Name += "-" + s.Arch
			}
			names = append(names, s.Name)
		}
		if got := strings.Join(names, " "); got != test.names {
			t.Errorf("%q: got %q, want %q", test.path, got, test.names)
		}
		if got := errorText(err); got != test.err {
			t.Errorf("%q: got  %s\nwant %s", test.path, got, test.err)
		}
	}
}

func otherArch() string {
	if runtime.GOARCH == "amd64" {
		return "arm64"
	}
	return "amd64"
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Each variant of ours is called SET-SUITE, in its name as in its file's, and sets nothing
// else: limits and addresses are the host's affair.
func TestVariants(t *testing.T) {
	specs, err := LoadAll("../variants")
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]string{"php": strings.Join(Default().Packages, " ")}
	var names []string
	for _, s := range specs {
		names = append(names, s.Name)
		set, suite, _ := strings.Cut(s.Name, "-")
		list := strings.Join(s.Packages, " ")
		if packages[set] == "" {
			packages[set] = list
		}
		if s.Suite != suite || list != packages[set] || filepath.Base(s.origin.file) != s.Name+".toml" {
			t.Errorf("%s: got name %s, suite %s and %s, want the packages of the other suites, %s", s.origin.file, s.Name, s.Suite, list, packages[set])
		}
		s.Name, s.Suite, s.Packages = Default().Name, Default().Suite, Default().Packages
		if !same(s, Default()) {
			t.Errorf("%s: got %+v, want the defaults beyond name, suite and packages", s.origin.file, s)
		}
	}
	if got, want := strings.Join(names, " "), "cpp-bookworm cpp-sid cpp-trixie php-bookworm php-sid php-trixie"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
