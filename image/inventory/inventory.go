// Package inventory finds out what is installed in a Debian tree, by looking at the tree's
// tarball as it passes: dpkg's database, the packages' copyright files and os-release.
package inventory

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"pault.ag/go/debian/control"
)

// Package is one installed package, as /var/lib/dpkg/status has it (deb-control(5)).
type Package struct {
	Name          string
	Version       string // with epoch and revision: "1:10.0p1-7+deb13u4"
	Architecture  string // Debian's name, or "all"
	Source        string // source package, often the same name
	SourceVersion string // differs from Version after a binary-only rebuild
	Maintainer    string // "Name <address>"
	Homepage      string // URL, or empty
	Section       string // "utils"
	Description   string // its first line

	// Licenses are SPDX expressions (SPDX 2.3, annex D), sorted, each once: one for each
	// short name that the copyright file gives to some files, and all of them apply. Names
	// that SPDX does not know are "LicenseRef-…". Empty if the file is not machine-readable
	// (Debian's copyright-format 1.0) or the package has none.
	Licenses []string
}

// Inventory collects what it needs from the entries of one tarball.
type Inventory struct {
	files map[string]*bytes.Buffer
	links map[string]string // symlinks and hard links, to a name in the tree
}

// New returns an inventory that has seen nothing yet.
func New() *Inventory {
	return &Inventory{files: map[string]*bytes.Buffer{}, links: map[string]string{}}
}

const (
	statusFile = "var/lib/dpkg/status"
	docDir     = "usr/share/doc"
)

// Visit looks at one entry, and returns where its content is to be written, or nil.
func (i *Inventory) Visit(h *tar.Header) io.Writer {
	name := clean(h.Name)
	if !wanted(name) {
		return nil
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		if path.IsAbs(h.Linkname) {
			i.links[name] = clean(h.Linkname)
		} else {
			i.links[name] = clean(path.Join(path.Dir(name), h.Linkname))
		}
	case tar.TypeLink:
		i.links[name] = clean(h.Linkname)
	case tar.TypeReg:
		content := new(bytes.Buffer)
		i.files[name] = content
		return content
	}
	return nil
}

// clean turns "./usr/", "/usr" and "usr" into "usr". What leads out of the tree stays in it.
func clean(name string) string { return path.Clean("/" + name)[1:] }

func wanted(name string) bool {
	switch name {
	case statusFile, "etc/os-release", "usr/lib/os-release", "etc/debian_version":
		return true
	}
	dir, base := path.Split(name)
	// The folder itself too: that of php8.4-cli is a symlink to php8.4-common's.
	return dir == docDir+"/" || base == "copyright" && path.Dir(clean(dir)) == docDir
}

// file returns the content of a file, following links of the file and of its folder, or
// nil if the tarball has no such file.
func (i *Inventory) file(name string) []byte {
	for range 40 { // as many as the kernel follows: path_resolution(7)
		if content, ok := i.files[name]; ok {
			return content.Bytes()
		}
		if target, ok := i.links[name]; ok {
			name = target
		} else if target, ok := i.links[path.Dir(name)]; ok {
			name = path.Join(target, path.Base(name))
		} else {
			return nil
		}
	}
	return nil
}

// Packages returns what is installed, sorted by name and architecture. A package in
// another state than "install ok installed" is an error: the image is half-made.
func (i *Inventory) Packages() ([]Package, error) {
	var stanzas []stanza
	if err := control.Unmarshal(&stanzas, bytes.NewReader(i.file(statusFile))); err != nil {
		return nil, fmt.Errorf("%s: %w", statusFile, err)
	}
	if len(stanzas) == 0 {
		return nil, errors.New("the tarball has no package in " + statusFile + ": it is not of a Debian tree")
	}
	packages := make([]Package, 0, len(stanzas))
	licenses := map[string][]string{} // several packages share a copyright file
	for _, s := range stanzas {
		if s.Status != "install ok installed" {
			return nil, fmt.Errorf("package %s is %q: build the image again", s.Package, s.Status)
		}
		if s.Package == "" || s.Version == "" || s.Architecture == "" {
			return nil, fmt.Errorf("%s: a paragraph lacks its package's name, version or architecture: %v", statusFile, s)
		}
		p := Package{
			Name: s.Package, Version: s.Version, Architecture: s.Architecture,
			Source: s.Package, SourceVersion: s.Version,
			Maintainer: s.Maintainer, Homepage: s.Homepage, Section: s.Section,
		}
		p.Description, _, _ = strings.Cut(s.Description, "\n")
		if s.Source != "" { // "bash (5.2.37-2)"
			source, version, found := strings.Cut(s.Source, " ")
			p.Source = source
			if found {
				p.SourceVersion = strings.Trim(version, "()")
			}
		}
		text := i.file(path.Join(docDir, p.Name, "copyright"))
		var ok bool
		if p.Licenses, ok = licenses[string(text)]; !ok {
			p.Licenses = copyrightLicenses(text)
			licenses[string(text)] = p.Licenses
		}
		packages = append(packages, p)
	}
	slices.SortFunc(packages, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Architecture, b.Architecture))
	})
	return packages, nil
}

// stanza has the fields of interest of one paragraph of dpkg's status file.
type stanza struct {
	Package, Status, Version, Architecture, Source string
	Maintainer, Homepage, Section, Description     string
}
