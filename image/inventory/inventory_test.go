package inventory

import (
	"archive/tar"
	"io"
	"reflect"
	"strings"
	"testing"
)

const status = `Package: php8.4-cli
Status: install ok installed
Section: php
Maintainer: Debian PHP Maintainers <php@example.org>
Architecture: amd64
Source: php8.4 (8.4.1-2)
Version: 8.4.1-2+b1
Conffiles:
 /etc/php/8.4/cli/php.ini 0123
Description: command-line interpreter
 It is long.
 .
 Homepage: not this one
Homepage: https://www.php.net/

Package: php8.4-common
Status: install ok installed
Maintainer: Debian PHP Maintainers <php@example.org>
Architecture: amd64
Source: php8.4
Version: 8.4.1-2
Description: common files

Package: bare
Status: install ok installed
Maintainer: Nobody <nobody@example.org>
Architecture: all
Version: 1:1.0
Description: without papers
`

const copyright = `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: PHP
Source: https://www.php.net/

Files: *
Copyright: 1999 The PHP Group
License: PHP-3.01

files: debian/*
Copyright: 2004 Somebody
license: GPL-2+ or Expat
 Do what you like.
 .
 License: not a field

Files: lib/*
Copyright: none
License: PHP-3.01

License: Only-Referred-To
 Its text.
`

// pass lets entries pass as a tarball does. An entry is a name and its content, a folder
// if the name ends with a slash, or "LINK -> TARGET" or "LINK => TARGET" (a hard link).
func pass(entries ...[2]string) *Inventory {
	i := New()
	for _, e := range entries {
		h := &tar.Header{Name: e[0], Typeflag: tar.TypeReg, Size: int64(len(e[1]))}
		if link, target, ok := strings.Cut(e[0], " -> "); ok {
			h = &tar.Header{Name: link, Linkname: target, Typeflag: tar.TypeSymlink}
		} else if link, target, ok := strings.Cut(e[0], " => "); ok {
			h = &tar.Header{Name: link, Linkname: target, Typeflag: tar.TypeLink}
		} else if strings.HasSuffix(e[0], "/") {
			h.Typeflag = tar.TypeDir
		}
		if w := i.Visit(h); w != nil {
			_, _ = io.WriteString(w, e[1])
		}
	}
	return i
}

func TestPackages(t *testing.T) {
	php := []string{"GPL-2.0-or-later OR MIT", "PHP-3.01"}
	want := []Package{{
		Name: "bare", Version: "1:1.0", Architecture: "all", Source: "bare", SourceVersion: "1:1.0",
		Maintainer: "Nobody <nobody@example.org>", Description: "without papers",
	}, {
		Name: "php8.4-cli", Version: "8.4.1-2+b1", Architecture: "amd64", Source: "php8.4", SourceVersion: "8.4.1-2",
		Maintainer: "Debian PHP Maintainers <php@example.org>", Homepage: "https://www.php.net/", Section: "php",
		Description: "command-line interpreter", Licenses: php,
	}, {
		Name: "php8.4-common", Version: "8.4.1-2", Architecture: "amd64", Source: "php8.4", SourceVersion: "8.4.1-2",
		Maintainer: "Debian PHP Maintainers <php@example.org>", Description: "common files", Licenses: php,
	}}
	real := [2]string{"./usr/share/doc/php8.4-common/copyright", copyright}
	dir := [2]string{"./usr/share/doc/php8.4-common/"}
	for name, entries := range map[string][][2]string{
		"folder is a link":         {dir, real, {"./usr/share/doc/php8.4-cli -> php8.4-common"}},
		"link comes first":         {{"./usr/share/doc/php8.4-cli -> php8.4-common"}, dir, real},
		"absolute link":            {dir, real, {"./usr/share/doc/php8.4-cli -> /usr/share/doc/php8.4-common"}},
		"link to a link":           {dir, real, {"./usr/share/doc/php8.4-cli -> x"}, {"./usr/share/doc/x -> php8.4-common"}},
		"file is a link":           {dir, real, {"./usr/share/doc/php8.4-cli/copyright -> ../php8.4-common/copyright"}},
		"file is a hard link":      {dir, real, {"./usr/share/doc/php8.4-cli/copyright => ./usr/share/doc/php8.4-common/copyright"}},
		"others are in the way":    {dir, real, {"./usr/share/doc/php8.4-cli -> php8.4-common"}, {"./opt/usr/share/doc/bare/copyright", copyright}},
		"names without dot":        {{"usr/share/doc/php8.4-common/copyright", copyright}, {"usr/share/doc/php8.4-cli -> php8.4-common"}},
		"not machine-readable too": {dir, real, {"./usr/share/doc/php8.4-cli -> php8.4-common"}, {"./usr/share/doc/bare/copyright", "License: Expat\n"}},
		"links in a circle":        {dir, real, {"./usr/share/doc/php8.4-cli -> php8.4-common"}, {"./usr/share/doc/bare -> y"}, {"./usr/share/doc/y -> bare"}},
	} {
		got, err := pass(append(entries, [2]string{"./var/lib/dpkg/status", status})...).Packages()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %q\nwant %q", name, got, want)
		}
	}
}

func TestPackagesRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":    "has no package in var/lib/dpkg/status",
		"\n":  "has no package in var/lib/dpkg/status",
		"x\n": "var/lib/dpkg/status: ",
		strings.Replace(status, "install ok installed", "install ok half-configured", 1): `package php8.4-cli is "install ok half-configured": build`,
		strings.Replace(status, "install ok installed", "deinstall ok config-files", 1):  `package php8.4-cli is "deinstall ok config-files"`,
		strings.Replace(status, "Version: 1:1.0\n", "", 1):                               "lacks its package's name, version or architecture",
		strings.Replace(status, "Status: install ok installed\nMain", "Main", 1):         `is "": build`,
	} {
		if _, err := pass([2]string{"./var/lib/dpkg/status", text}).Packages(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("status %.40q: got %v, want an error with %q", text, err, want)
		}
	}
	if _, err := pass().Packages(); err == nil || !strings.Contains(err.Error(), "has no package in var/lib/dpkg/status") {
		t.Errorf("empty tarball: got %v, want an error that names the status file", err)
	}
}

func TestCopyrightLicenses(t *testing.T) {
	format := "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
	for text, want := range map[string]string{
		"": "",
		format + "License: Expat\n\nFiles: *\nLicense: ISC\n":                  "ISC MIT", // header and files
		format + "\nFiles: *\nLicense: ISC\n\n\n\nLicense: Expat\n text\n":     "ISC",
		format + "\nFiles: *\nLicense:\n Permission is granted\n to anyone.\n": "LicenseRef-unnamed",
		format + "License:\n Several, see below.\n\nFiles: *\nLicense: ISC\n":  "ISC LicenseRef-unnamed",
		format + "\n# a comment\nFiles: *\n# another\nLicense: ISC":            "ISC",
		format + "\r\nFiles: *\r\nLicense: ISC\r\n":                            "ISC",
		format + "\nFiles: *\nLicense: ISC\n\nThis is no field.\n":             "",
		"Format: http://dep.debian.net/deps/dep5\n\nFiles: *\nLicense: ISC\n":  "ISC",
		"Format: 3.0 (quilt)\n\nFiles: *\nLicense: ISC\n":                      "",
		"Files: *\nLicense: ISC\n\n" + format:                                  "",
		"This package was debianized by hand.\n\nLicense: ISC\n":               "",
	} {
		if got := strings.Join(copyrightLicenses([]byte(text)), " "); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestSystem(t *testing.T) {
	trixie := "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n# ID=no\nID=debian\nVERSION_ID=\"13\"\nVERSION_CODENAME='trixie'\n"
	got, err := pass([2]string{"./etc/os-release -> ../usr/lib/os-release"}, [2]string{"./usr/lib/os-release", trixie},
		[2]string{"./etc/debian_version", "13.2\n"}).System()
	want := System{ID: "debian", VersionID: "13", Codename: "trixie", Name: "Debian GNU/Linux 13 (trixie)", Debian: "13.2"}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	sid, err := pass([2]string{"./usr/lib/os-release", "ID=debian\nVERSION_CODENAME=forky\n"}).System()
	if err != nil || sid.Distro() != "debian-forky" || got.Distro() != "debian-13" {
		t.Errorf("distro: got %q and %q, %v, want debian-forky and debian-13", sid.Distro(), got.Distro(), err)
	}
	if _, err := pass([2]string{"./etc/debian_version", "13.2\n"}).System(); err == nil {
		t.Error("a tarball without os-release is accepted")
	}
}
