package sbom

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdxlib"

	"ephemeral-builder/image/inventory"
)

const noAssertion = "NOASSERTION" // SPDX for: nobody has looked

// SPDX returns the bill as SPDX 2.3 JSON: the document
// describes the image, and the image contains its operating system and each package.
func SPDX(s Subject, packages []inventory.Package) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	const image, system = "Image", "OperatingSystem"
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName: s.Name + "_" + s.Version + "_" + s.Architecture, DocumentNamespace: s.uuid("SPDX"),
		CreationInfo: &spdx.CreationInfo{
			Created:  s.time(),
			Creators: []common.Creator{{CreatorType: "Tool", Creator: s.Tool + "-" + s.ToolVersion}},
		},
		Packages: []*spdx.Package{{
			PackageSPDXIdentifier: image, PackageName: s.Name, PackageVersion: s.Version,
			PackageChecksums: checksums(s.TarSHA256), PrimaryPackagePurpose: "CONTAINER",
			PackageExternalReferences: purl(s.imagePURL()),
		}, {
			PackageSPDXIdentifier: system, PackageName: s.System.ID, PackageVersion: s.systemVersion(),
			PackageSummary: s.System.Name, PrimaryPackagePurpose: "OPERATING_SYSTEM",
		}},
		OtherLicenses: otherLicenses(packages),
	}
	for _, p := range packages {
		doc.Packages = append(doc.Packages, spdxPackage(s, p))
	}
	relate := func(a common.ElementID, kind string, b common.ElementID) {
		doc.Relationships = append(doc.Relationships, &spdx.Relationship{
			RefA: common.MakeDocElementID("", string(a)), RefB: common.MakeDocElementID("", string(b)), Relationship: kind,
		})
	}
	relate(doc.SPDXIdentifier, spdx.RelationshipDescribes, image)
	for _, p := range doc.Packages {
		if p.PackageSPDXIdentifier != image {
			relate(image, spdx.RelationshipContains, p.PackageSPDXIdentifier)
		}
		p.PackageDownloadLocation = noAssertion
		p.PackageLicenseConcluded = noAssertion
		p.PackageCopyrightText = noAssertion
		if p.PackageLicenseDeclared == "" {
			p.PackageLicenseDeclared = noAssertion
		}
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := spdxjson.Write(doc, &out, spdxjson.Indent("  "), spdxjson.EscapeHTML(false)); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func spdxPackage(s Subject, p inventory.Package) *spdx.Package {
	// An identifier may have letters, digits, dots and hyphens. Debian's names have no
	// capitals, so that this can't make one name of two.
	id := "deb-" + strings.ReplaceAll(p.Name, "+", ".PLUS") + "-" + p.Architecture
	q := &spdx.Package{
		PackageSPDXIdentifier: common.ElementID(id), PackageName: p.Name, PackageVersion: p.Version,
		PackageChecksums: checksums(s.deb(p)), PackageHomePage: homepage(p),
		PackageSourceInfo:         fmt.Sprintf("built from source package %s %s", p.Source, p.SourceVersion),
		PackageLicenseDeclared:    license(p),
		PackageSummary:            p.Description,
		PackageExternalReferences: purl(s.packagePURL(p)),
	}
	if name, address := maintainer(p); name != "" {
		if address != "" {
			name += " (" + address + ")"
		}
		// Most maintainers are teams, and nothing in a package tells them from persons.
		q.PackageSupplier = &common.Supplier{SupplierType: "Organization", Supplier: name}
	}
	return q
}

func checksums(sha256 string) []common.Checksum {
	if sha256 == "" {
		return nil
	}
	return []common.Checksum{{Algorithm: common.SHA256, Value: sha256}}
}

func purl(url string) []*spdx.PackageExternalReference {
	return []*spdx.PackageExternalReference{{
		Category: spdx.CategoryPackageManager, RefType: spdx.PackageManagerPURL, Locator: url,
	}}
}

var ref = regexp.MustCompile(`LicenseRef-[A-Za-z0-9.-]+`)

// otherLicenses describes each LicenseRef in use, which SPDX demands. Their texts stay in
// the image, as they would be most of the document and the same name may stand for another
// text in another package.
func otherLicenses(packages []inventory.Package) []*spdx.OtherLicense {
	users := map[string][]string{}
	for _, p := range packages {
		for _, id := range ref.FindAllString(strings.Join(p.Licenses, "\n"), -1) {
			if !slices.Contains(users[id], p.Name) {
				users[id] = append(users[id], p.Name)
			}
		}
	}
	var all []*spdx.OtherLicense
	for _, id := range slices.Sorted(maps.Keys(users)) {
		all = append(all, &spdx.OtherLicense{
			LicenseIdentifier: id,
			LicenseName:       strings.TrimPrefix(id, "LicenseRef-"),
			ExtractedText: "The text is in the image, in /usr/share/doc/PACKAGE/copyright of: " +
				strings.Join(users[id], ", ") + ".",
		})
	}
	return all
}
