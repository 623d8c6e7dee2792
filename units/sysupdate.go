package units

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"

	"ephemeral-builder/image"
	"ephemeral-builder/image/source"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/image/sysupdate"
)

// sysupdateProgram is not in Debian 12, and not in PATH in Debian 13.
const sysupdateProgram = "/usr/lib/systemd/systemd-sysupdate"

// keepVersions is for systemd-sysupdate, which would remove the oldest ones even if containers run
// on them. Script prune looks at that, and leaves three or so.
const keepVersions = 16

// canUpdate fails where new images can't come by themselves, from a URL or from where earlier ones
// came.
func canUpdate(s spec.Spec, from *url.URL) error {
	if _, err := os.Stat(sysupdateProgram); err != nil {
		return fmt.Errorf("updates by themselves need systemd-sysupdate, of Debian 13 and later: install them by hand here: %w", err)
	}
	// What it verifies signatures with, and by.
	if _, err := exec.LookPath("gpg"); err != nil {
		return fmt.Errorf("systemd-sysupdate verifies with gpg: apt-get install gpg: %w", err)
	}
	if _, err := os.Stat(source.DefaultKeyring); err != nil {
		return fmt.Errorf("systemd-sysupdate needs the publisher's key there: %w", err)
	}
	if from != nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(sysupdate.Dir(s.Name), s.Name+sysupdate.Suffix)); err != nil {
		return fmt.Errorf("nobody knows where updates would come from: install once from the URL of a published image, with -from: %w", err)
	}
	return nil
}

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
	transfers, err := sysupdate.Transfers(sysupdate.Options{URL: from.String(), Name: m.Name, Dir: ContainerDir, Keep: keepVersions})
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
