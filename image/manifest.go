package image

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"ephemeral-builder/image/spec"
)

// Manifest describes one image; it is the NAME_VERSION_ARCH.manifest.json beside it.
type Manifest struct {
	Name            string            `json:"name"`
	Version         string            `json:"version"`
	Architecture    string            `json:"architecture"` // systemd's name
	Suite           string            `json:"suite"`        // as the spec has it
	Codename        string            `json:"codename"`     // what the suite stood for
	ReleaseDate     string            `json:"release_date"` // Date of the suite's Release file
	Mirror          string            `json:"mirror"`
	SourceDateEpoch int64             `json:"source_date_epoch"` // seconds since 1970
	Tar             File              `json:"tar"`               // uncompressed: the same for whoever builds it
	Compressed      File              `json:"compressed"`        // the .tar.zst; may change with the compressor's version
	Spec            spec.Spec         `json:"spec"`
	Inputs          string            `json:"inputs"`   // digest of the files that the spec refers to
	Tools           map[string]string `json:"tools"`    // versions, by name of the program
	Packages        []Package         `json:"packages"` // sorted by name
}

// Epoch is the latest time of any file in the image.
func (m Manifest) Epoch() time.Time { return time.Unix(m.SourceDateEpoch, 0).UTC() }

// Package is one installed Debian package.
type Package struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"` // Debian's name, or "all"
}

// Stem is what the names of the image's files begin with: NAME_VERSION_ARCH.
func (m Manifest) Stem() string { return m.Name + "_" + m.Version + "_" + m.Architecture }

// File identifies one file's content.
type File struct {
	SHA256 string `json:"sha256"` // lower-case hex
	Size   int64  `json:"size"`   // bytes
}

// ReadManifest reads a manifest from a file.
func ReadManifest(path string) (Manifest, error) {
	var m Manifest
	text, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%s is no manifest: name another file, or build the image again: %w", path, err)
	}
	return m, nil
}

// ParseEpoch reads SOURCE_DATE_EPOCH: seconds since 1970, in decimal.
func ParseEpoch(text string) (time.Time, error) {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q is not a number of seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
