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
	pattern := Pattern(name, version, arch)
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return Image{}, err
	}
	newest, err := Newest(found)
	if err != nil {
		return Image{}, err
	}
	if newest == "" {
		return Image{}, fmt.Errorf("no %s in %s: build it with: go tool mage build, or say with -from where it is", pattern, dir)
	}
	img := Image{Tarball: newest, Manifest: strings.TrimSuffix(newest, tarballSuffix) + ".manifest.json"}
	if _, err := os.Stat(img.Manifest); err != nil {
		return Image{}, fmt.Errorf("%s has no manifest: build it again: %w", newest, err)
	}
	return img, nil
}

// Pattern is what the names of an image's tarballs look like, as path.Match has it: of all
// versions if version is empty.
func Pattern(name, version, arch string) string {
	if version == "" {
		version = "*"
	}
	return name + "_" + version + "_" + arch + tarballSuffix
}

// Newest returns the tarball with the newest version, by dpkg's order; an empty string if
// there is none. It takes paths, or bare names.
func Newest(tarballs []string) (string, error) {
	if len(tarballs) == 1 {
		return tarballs[0], nil
	}
	var newest string
	var newestVersion debversion.Version
	for _, path := range tarballs {
		v, err := debversion.NewVersion(strings.Split(filepath.Base(path), "_")[1])
		if err != nil {
			return "", fmt.Errorf("%s has a version that can't be compared: move it away, or say -version=VERSION: %w", path, err)
		}
		if newest == "" || newestVersion.LessThan(v) {
			newest, newestVersion = path, v
		}
	}
	return newest, nil
}
