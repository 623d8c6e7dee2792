// Package sbom writes the software bill of materials of an image, as CycloneDX 1.6 and as
// SPDX 2.3, both JSON. Equal images give equal bytes: the documents' identifiers come from
// the digest of the image's tar, and their time is the image's epoch.
package sbom

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/package-url/packageurl-go"

	"ephemeral-builder/image/inventory"
)

// Subject is the image that a bill is about, and who writes the bill.
type Subject struct {
	Name         string // of the image
	Version      string
	Architecture string // systemd's name, as in the names of the image's files
	TarSHA256    string // of the uncompressed tar, 64 lower-case hex digits
	Epoch        time.Time

	System inventory.System
	// Debs has the SHA-256 of each package's .deb file, in lower-case hex, by
	// NAME_ARCHITECTURE ("bash_amd64"). Packages that it lacks get no digest.
	Debs map[string]string

	Tool        string // name of the program that calls this
	ToolVersion string
}

var digest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// check refuses what would make a document that breaks its schema.
func (s Subject) check() error {
	switch {
	case s.Name == "" || s.Version == "" || s.Tool == "" || s.ToolVersion == "" || s.System.ID == "":
		return errors.New("a bill of materials needs the names and versions of the image and the tool, and the system's ID")
	case !digest.MatchString(s.TarSHA256):
		return fmt.Errorf("%q is no SHA-256 of a tar", s.TarSHA256)
	}
	for name, sum := range s.Debs {
		if !digest.MatchString(sum) {
			return fmt.Errorf("%q is no SHA-256 of package %s", sum, name)
		}
	}
	return nil
}

// uuid makes an identifier of one document out of what the document is about: version 8 of
// RFC 9562, as its version 5 would need SHA-1.
func (s Subject) uuid(format string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{format, s.Name, s.Version, s.Architecture, s.TarSHA256}, "\x00")))
	u := sum[:16]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

func (s Subject) time() string { return s.Epoch.UTC().Format(time.RFC3339) }

// deb returns the digest of a package's .deb file, or nothing.
func (s Subject) deb(p inventory.Package) string { return s.Debs[p.Name+"_"+p.Architecture] }

// systemVersion is the number of the release, or what a suite without one calls itself.
func (s Subject) systemVersion() string {
	if s.System.VersionID != "" {
		return s.System.VersionID
	}
	return s.System.Debian
}

// imagePURL is the image's package URL. There is no type for such images but "generic".
func (s Subject) imagePURL() string {
	return packageurl.NewPackageURL(packageurl.TypeGeneric, "", s.Name, s.Version,
		packageurl.Qualifiers{{Key: "arch", Value: s.Architecture}, {Key: "checksum", Value: "sha256:" + s.TarSHA256}}, "").ToString()
}

// packagePURL is a package's URL, of type deb. The qualifiers are those that scanners look
// for: distro tells which security tracker to ask, and upstream the source package it
// knows, which no package URL can say otherwise.
func (s Subject) packagePURL(p inventory.Package) string {
	q := packageurl.Qualifiers{{Key: "arch", Value: p.Architecture}, {Key: "distro", Value: s.System.Distro()}}
	switch {
	case p.SourceVersion != p.Version:
		q = append(q, packageurl.Qualifier{Key: "upstream", Value: p.Source + "@" + p.SourceVersion})
	case p.Source != p.Name:
		q = append(q, packageurl.Qualifier{Key: "upstream", Value: p.Source})
	}
	return packageurl.NewPackageURL(packageurl.TypeDebian, s.System.ID, p.Name, p.Version, q, "").ToString()
}

// license joins all licences of a package to one SPDX expression, or nothing.
func license(p inventory.Package) string {
	if len(p.Licenses) == 1 {
		return p.Licenses[0]
	}
	parts := make([]string, len(p.Licenses))
	for n, l := range p.Licenses {
		parts[n] = l
		if strings.Contains(l, " OR ") {
			parts[n] = "(" + l + ")"
		}
	}
	return strings.Join(parts, " AND ")
}

// maintainer takes "Name <address>" apart. net/mail would refuse names with a bare dot or
// parentheses, which Debian allows.
func maintainer(p inventory.Package) (name, address string) {
	name, address, _ = strings.Cut(p.Maintainer, "<")
	return strings.TrimSpace(name), strings.TrimRight(address, "> ")
}

// homepage returns a package's home page if it is an absolute URL, as both formats want.
func homepage(p inventory.Package) string {
	u, err := url.Parse(p.Homepage)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return ""
	}
	return u.String()
}
