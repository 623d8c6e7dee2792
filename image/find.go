package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	debversion "github.com/knqyf263/go-deb-version"
)

// Find returns the image of a name, version and architecture in a folder; an empty
// version means the newest one there, by dpkg's order of versions.
func Find(dir, name, version, arch string) (Image, error) {
	pattern := name + "_*_" + arch + ".tar.zst"
	if version != "" {
		pattern = name + "_" + version + "_" + arch + ".tar.zst"
	}
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return Image{}, err
	}
	var newest string
	var newestVersion debversion.Version
	for _, path := range found {
		v, err := debversion.NewVersion(strings.Split(filepath.Base(path), "_")[1])
		if err != nil {
			return Image{}, fmt.Errorf("%s has a version that can't be compared: move it away, or say -version=VERSION: %w", path, err)
		}
		if newest == "" || newestVersion.LessThan(v) {
			newest, newestVersion = path, v
		}
	}
	if newest == "" {
		return Image{}, fmt.Errorf("no %s in %s: build it with: go tool mage build", pattern, dir)
	}
	img := Image{Tarball: newest, Manifest: strings.TrimSuffix(newest, ".tar.zst") + ".manifest.json"}
	if _, err := os.Stat(img.Manifest); err != nil {
		return Image{}, fmt.Errorf("%s has no manifest: build it again: %w", newest, err)
	}
	return img, nil
}
