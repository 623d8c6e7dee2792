package sbom

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/github/go-spdx/v2/spdxexp"
	"github.com/package-url/packageurl-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/inventory"
)

var subject = Subject{
	Name: "ci", Version: "20261121", Architecture: "x86-64",
	TarSHA256: strings.Repeat("0123456789abcdef", 4),
	Epoch:     time.Date(2026, 11, 21, 9, 15, 44, 0, time.FixedZone("elsewhere", 3600)),
	System:    inventory.System{ID: "debian", VersionID: "13", Codename: "trixie", Name: "Debian GNU/Linux 13 (trixie)", Debian: "13.2"},
	Debs:      map[string]string{"bash_amd64": strings.Repeat("ab", 32)},
	Tool:      "ephemeral-builder", ToolVersion: "v1",
}

var packages = []inventory.Package{{
	Name: "bash", Version: "5.2.37-2+b9", Architecture: "amd64", Source: "bash", SourceVersion: "5.2.37-2",
	Maintainer: "Matthias Klose <doko@example.org>", Homepage: "http://tiswww.case.edu/php/chet/bash/bashtop.html",
	Description: "GNU Bourne Again SHell <&>", Licenses: []string{"GPL-3.0-or-later"},
}, {
	Name: "libstdc++6", Version: "14.2.0-19", Architecture: "amd64", Source: "gcc-14", SourceVersion: "14.2.0-19",
	Maintainer: "Debian GCC Maintainers (all)", Homepage: "no URL", Description: "GNU Standard C++ Library v3",
}, {
	Name: "openssh-client", Version: "1:10.0p1-7", Architecture: "amd64", Source: "openssh", SourceVersion: "1:10.0p1-7",
	Maintainer: "Debian OpenSSH Maintainers <ssh@example.org>", Homepage: "https://www.openssh.com/ä", Description: "secure shell (SSH) client",
	Licenses: []string{"BSD-2-Clause", "LicenseRef-OpenSSH", "LicenseRef-public-domain OR MIT"},
}, {
	Name: "zz", Version: "1~rc1", Architecture: "all", Source: "zz", SourceVersion: "1~rc1",
	Licenses: []string{"LicenseRef-public-domain"},
}}

// formats are the two kinds of bills, with the schema of each.
var formats = map[string]struct {
	write  func(Subject, []inventory.Package) ([]byte, error)
	schema func(*testing.T) *jsonschema.Schema
}{
	"CycloneDX": {CycloneDX, cycloneDXSchema},
	"SPDX":      {SPDX, spdxSchema},
}

// cycloneDXSchema is the official one, which comes with the library as a Go module.
func cycloneDXSchema(t *testing.T) *jsonschema.Schema {
	dir, err := command.Output(t.Context(), command.Cmd{Args: []string{
		"go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go"}})
	if err != nil {
		t.Fatal(err)
	}
	const base = "http://cyclonedx.org/schema/"
	schemas := map[string]string{ // by what the schemas call each other
		base + "bom-1.6.schema.json":  "bom-1.6.schema.json",
		base + "spdx.schema.json":     "spdx.schema.json",
		base + "jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	}
	for url, name := range schemas {
		schemas[url] = filepath.Join(strings.TrimSpace(string(dir)), "schema", name)
	}
	return compile(t, base+"bom-1.6.schema.json", schemas)
}

func spdxSchema(t *testing.T) *jsonschema.Schema {
	const url = "urn:ephemeral-builder:spdx"
	return compile(t, url, map[string]string{url: "testdata/spdx-2.3.schema.json"})
}

func compile(t *testing.T, root string, files map[string]string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for url, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(url, doc); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := c.Compile(root)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func validate(t *testing.T, schema *jsonschema.Schema, text []byte) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(doc)
}

func write(t *testing.T, f func(Subject, []inventory.Package) ([]byte, error), s Subject) []byte {
	t.Helper()
	text, err := f(s, packages)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestSchema(t *testing.T) {
	sid := subject
	sid.Debs = nil
	sid.System = inventory.System{ID: "debian", Codename: "forky", Debian: "forky/sid"}
	for name, format := range formats {
		schema := format.schema(t)
		for _, s := range []Subject{subject, sid} {
			if err := validate(t, schema, write(t, format.write, s)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		// The schema is one, and is looked at.
		for _, change := range []string{"urn:uuid:", "2026-11-21T", strings.Repeat("ab", 32)} {
			text := write(t, format.write, subject)
			broken := bytes.Replace(text, []byte(change), []byte(" "), 1)
			if bytes.Equal(broken, text) {
				t.Errorf("%s does not have %q", name, change)
			} else if validate(t, schema, broken) == nil {
				t.Errorf("%s is valid without %q", name, change)
			}
		}
	}
}

func TestDeterministic(t *testing.T) {
	for name, format := range formats {
		first := write(t, format.write, subject)
		again := subject
		again.Epoch = subject.Epoch.UTC()
		if !bytes.Equal(first, write(t, format.write, again)) {
			t.Errorf("%s: two runs differ", name)
		}
		again.TarSHA256 = strings.Repeat("cd", 32)
		if again.uuid(name) == subject.uuid(name) {
			t.Errorf("%s: images of different bytes have the same identifier", name)
		}
		if !bytes.Contains(first, []byte(subject.uuid(name))) {
			t.Errorf("%s does not have the identifier %s", name, subject.uuid(name))
		}
	}
}

var wantPURLs = []string{
	"pkg:deb/debian/bash@5.2.37-2%2Bb9?arch=amd64&distro=debian-13&upstream=bash%405.2.37-2",
	"pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64&distro=debian-13&upstream=gcc-14",
	"pkg:deb/debian/openssh-client@1:10.0p1-7?arch=amd64&distro=debian-13&upstream=openssh",
	"pkg:deb/debian/zz@1~rc1?arch=all&distro=debian-13",
}

var wantLicenses = []string{"GPL-3.0-or-later", "", "BSD-2-Clause AND LicenseRef-OpenSSH AND (LicenseRef-public-domain OR MIT)", "LicenseRef-public-domain"}

func TestCycloneDX(t *testing.T) {
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(write(t, CycloneDX, subject)), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	root := bom.Metadata.Component
	if root.Name != "ci" || root.Version != "20261121" || (*root.Hashes)[0].Value != subject.TarSHA256 || bom.Metadata.Timestamp != "2026-11-21T08:15:44Z" {
		t.Errorf("root: got %+v at %s", root, bom.Metadata.Timestamp)
	}
	system := (*bom.Components)[0]
	if system.Type != cdx.ComponentTypeOS || system.Name != "debian" || system.Version != "13" {
		t.Errorf("operating system: got %+v", system)
	}
	var refs, purls, licenses []string
	for n, c := range *bom.Components {
		refs = append(refs, c.BOMRef)
		if n == 0 {
			continue
		}
		purls = append(purls, c.PackageURL)
		expression := ""
		if c.Licenses != nil {
			expression = (*c.Licenses)[0].Expression
		}
		licenses = append(licenses, expression)
	}
	check(t, purls, licenses)
	if got := *(*bom.Dependencies)[0].Dependencies; !slices.Equal(got, refs) {
		t.Errorf("dependencies: got %q, want %q", got, refs)
	}
	bash := (*bom.Components)[1]
	if bash.Supplier.Name != "Matthias Klose" || (*bash.Supplier.Contact)[0].Email != "doko@example.org" ||
		(*bash.Hashes)[0].Value != subject.Debs["bash_amd64"] || (*bash.ExternalReferences)[0].URL != packages[0].Homepage {
		t.Errorf("bash: got %+v", bash)
	}
	if gcc := (*bom.Components)[2]; gcc.Hashes != nil || gcc.ExternalReferences != nil || gcc.Supplier.Contact != nil {
		t.Errorf("libstdc++6: got %+v", gcc)
	}
}

func TestSPDX(t *testing.T) {
	doc, err := spdxjson.Read(bytes.NewReader(write(t, SPDX, subject)))
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Error(err)
	}
	var ids, purls, licenses []string
	for n, p := range doc.Packages {
		ids = append(ids, string(p.PackageSPDXIdentifier))
		if n < 2 {
			continue
		}
		purls = append(purls, p.PackageExternalReferences[0].Locator)
		licenses = append(licenses, strings.TrimPrefix(p.PackageLicenseDeclared, "NOASSERTION"))
	}
	check(t, purls, licenses)
	if want := []string{"Image", "OperatingSystem", "deb-bash-amd64", "deb-libstdc.PLUS.PLUS6-amd64", "deb-openssh-client-amd64", "deb-zz-all"}; !slices.Equal(ids, want) {
		t.Errorf("identifiers: got %q, want %q", ids, want)
	}
	if len(doc.Relationships) != len(doc.Packages) {
		t.Errorf("got %d relationships, want one for each of %d packages", len(doc.Relationships), len(doc.Packages))
	}
	var others []string
	for _, l := range doc.OtherLicenses {
		others = append(others, l.LicenseIdentifier+": "+l.ExtractedText)
	}
	const text = "The text is in the image, in /usr/share/doc/PACKAGE/copyright of: "
	if want := []string{"LicenseRef-OpenSSH: " + text + "openssh-client.", "LicenseRef-public-domain: " + text + "openssh-client, zz."}; !slices.Equal(others, want) {
		t.Errorf("other licences: got %q, want %q", others, want)
	}
	if got, want := doc.Packages[2].PackageSupplier.Supplier, "Matthias Klose (doko@example.org)"; got != want {
		t.Errorf("supplier: got %q, want %q", got, want)
	}
}

func check(t *testing.T, purls, licenses []string) {
	t.Helper()
	if !slices.Equal(purls, wantPURLs) {
		t.Errorf("package URLs:\ngot  %q\nwant %q", purls, wantPURLs)
	}
	if !slices.Equal(licenses, wantLicenses) {
		t.Errorf("licences: got %q, want %q", licenses, wantLicenses)
	}
	for n, url := range purls {
		if p, err := packageurl.FromString(url); err != nil || p.Name != packages[n].Name || p.Version != packages[n].Version {
			t.Errorf("%s: read back as %+v, %v", url, p, err)
		}
	}
	for _, l := range licenses {
		if ok, _ := spdxexp.ValidateLicenses([]string{l}); !ok && l != "" {
			t.Errorf("%q is no SPDX expression", l)
		}
	}
}

func TestRefuses(t *testing.T) {
	for want, change := range map[string]func(*Subject){
		"needs the names":                         func(s *Subject) { s.ToolVersion = "" },
		`"abc" is no SHA-256 of a tar`:            func(s *Subject) { s.TarSHA256 = "abc" },
		`"ABC" is no SHA-256 of package bash_all`: func(s *Subject) { s.Debs = map[string]string{"bash_all": "ABC"} },
	} {
		s := subject
		change(&s)
		for name, format := range formats {
			if _, err := format.write(s, packages); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want an error with %q", name, err, want)
			}
		}
	}
}
