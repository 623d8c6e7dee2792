package release

import (
	"fmt"
	"strings"

	"ephemeral-builder/image"
	"ephemeral-builder/image/lock"
)

// releaseNotes tells in Markdown what an image is and which packages changed since the
// version before it, which may be nil. The same images give the same text.
func releaseNotes(b, before *build) []byte {
	var text strings.Builder
	m := b.manifest
	fmt.Fprintf(&text, "# %s %s (%s)\n\n", m.Name, m.Version, m.Architecture)
	fmt.Fprintf(&text, "%d packages of Debian %s, as of %s. Uncompressed, the tarball has %d bytes and this SHA-256:\n\n    %s\n\n",
		len(m.Packages), m.Codename, m.ReleaseDate, m.Tar.Size, m.Tar.SHA256)
	if before == nil {
		text.WriteString("This is the first version here.\n")
		return []byte(text.String())
	}
	fmt.Fprintf(&text, "## Packages since %s\n\n", before.manifest.Version)
	if changes := lock.Diff(entries(before.manifest), entries(m)); len(changes) > 0 {
		text.WriteString(lock.Markdown(changes))
	} else {
		text.WriteString("None changed.\n")
	}
	return []byte(text.String())
}

func entries(m image.Manifest) []lock.Entry {
	var all []lock.Entry
	for _, p := range m.Packages {
		all = append(all, lock.Entry{Name: p.Name, Version: p.Version, Architecture: p.Architecture})
	}
	return all
}
