package sbom

import (
	"bytes"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"ephemeral-builder/image/inventory"
)

// CycloneDX returns the bill as CycloneDX 1.6 JSON (ECMA-424): the image is the root
// component, and depends on its operating system and on each package.
//
// Licences are one expression each: a list of several would leave open whether all apply
// or one can be chosen.
func CycloneDX(s Subject, packages []inventory.Package) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	root := cdx.Component{
		BOMRef: s.imagePURL(), Type: cdx.ComponentTypeContainer, Name: s.Name, Version: s.Version,
		PackageURL: s.imagePURL(), Hashes: hashes(s.TarSHA256),
	}
	components := []cdx.Component{{
		BOMRef: s.System.Distro(), Type: cdx.ComponentTypeOS, Name: s.System.ID, Version: s.systemVersion(),
		Description: s.System.Name,
	}}
	for _, p := range packages {
		components = append(components, component(s, p))
	}
	refs := make([]string, len(components))
	dependencies := []cdx.Dependency{{Ref: root.BOMRef, Dependencies: &refs}}
	for n, c := range components {
		refs[n] = c.BOMRef
	}

	bom := cdx.NewBOM()
	bom.SerialNumber = s.uuid("CycloneDX")
	bom.Metadata = &cdx.Metadata{
		Timestamp: s.time(),
		Component: &root,
		Tools: &cdx.ToolsChoice{Components: &[]cdx.Component{
			{Type: cdx.ComponentTypeApplication, Name: s.Tool, Version: s.ToolVersion},
		}},
	}
	bom.Components = &components
	bom.Dependencies = &dependencies

	var out bytes.Buffer
	encoder := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	if err := encoder.EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func component(s Subject, p inventory.Package) cdx.Component {
	c := cdx.Component{
		BOMRef: s.packagePURL(p), Type: cdx.ComponentTypeLibrary, Name: p.Name, Version: p.Version,
		Description: p.Description, PackageURL: s.packagePURL(p), Hashes: hashes(s.deb(p)),
	}
	if name, address := maintainer(p); name != "" {
		c.Supplier = &cdx.OrganizationalEntity{Name: name}
		if address != "" {
			c.Supplier.Contact = &[]cdx.OrganizationalContact{{Email: address}}
		}
	}
	if expression := license(p); expression != "" {
		declared := cdx.LicenseAcknowledgementDeclared
		c.Licenses = &cdx.Licenses{{Expression: expression, Acknowledgement: &declared}}
	}
	if page := homepage(p); page != "" {
		c.ExternalReferences = &[]cdx.ExternalReference{{Type: cdx.ERTypeWebsite, URL: page}}
	}
	return c
}

func hashes(sha256 string) *[]cdx.Hash {
	if sha256 == "" {
		return nil
	}
	return &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sha256}}
}
