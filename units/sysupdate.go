package units

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"ephemeral-builder/image"
	"ephemeral-builder/image/source"
	"ephemeral-builder/image/sysupdate"
)

// sysupdateProgram is not in Debian 12, and not in PATH in Debian 13.
const sysupdateProgram = "/usr/lib/systemd/systemd-sysupdate"

// follow returns the files that make systemd-sysupdate(8) install what later appears in the
// release directory at a URL, if this host has it; and what to say of later versions.
func follow(from *url.URL, m image.Manifest) (files []File, upgrade string) {
	if from == nil {
		return nil, ""
	}
	again := "a later version comes with the same install"
	if _, err := os.Stat(sysupdateProgram); err != nil {
		return nil, again
	}
	transfers, err := sysupdate.Transfers(sysupdate.Options{URL: from.String(), Name: m.Name, Dir: ContainerDir, Keep: 2})
	if err == nil {
		err = sysupdate.CheckVersion(m.Version)
	}
	if err != nil {
		return nil, fmt.Sprintf("%s, and not with systemd-sysupdate: %v", again, err)
	}
	for _, file := range transfers {
		files = append(files, File{filepath.Join(sysupdate.Dir(m.Name), file.Name), file.Text})
	}
	return files, fmt.Sprintf("%s, or with the following, which needs gpg, and the key in %s; the next connection gets the new image\n\n  %s --component=%s update",
		again, source.DefaultKeyring, sysupdateProgram, m.Name)
}
