// Package oci writes images as an OCI image layout, a folder that podman, skopeo and, through
// its manifest.json, docker load from, and pushes them from there to a registry.
//
//	oci-layout, index.json   OCI image-spec 1.1, image-layout.md
//	manifest.json            the same images for docker load, which reads only this before
//	                         docker 29
//	blobs/sha256/…
//
// Each image has one layer: its tarball, unchanged, in gzip. The layer's diff_id is the digest of
// the uncompressed tar that the manifest of the image promises.
package oci

import (
	"fmt"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image is one image to be written.
type Image struct {
	Name         string // of the repository: "ephemeral-builder"
	Version      string // see [Tag]
	Architecture string // OCI's and Debian's name: "amd64"
	Tarball      string // path of the .tar.zst
	TarSHA256    string // of the uncompressed tar, lower-case hex
	Created      time.Time
	Revision     string // of the sources it was built from; may be empty
}

// Tag is the version as a tag, which has a smaller set of characters (distribution-spec,
// "Pulling manifests"): "~", "^" and "+" become "_", which no version has.
func Tag(version string) string {
	return strings.NewReplacer("~", "_", "^", "_", "+", "_").Replace(version)
}

const (
	home     = "/home/builder"
	template = "/home/builder.template"
)

// fillHome gives the builder the home that containers under systemd get from the
// entrypoint of the image, unless another user runs it or there is one already, in a volume.
const fillHome = `[ ! -w ` + home + ` ] || [ -e ` + home + `/.profile ] || cp -a ` + template + `/. ` + home + `; exec "$@"`

// build describes an image that has the one layer l.
func (i Image) build(l v1.Layer) (v1.Image, error) {
	created := v1.Time{Time: i.Created.UTC()}
	about := map[string]string{
		"org.opencontainers.image.title":   i.Name,
		"org.opencontainers.image.version": i.Version,
		"org.opencontainers.image.created": created.Format(time.RFC3339),
	}
	if i.Revision != "" {
		about["org.opencontainers.image.revision"] = i.Revision
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(img, mutate.Addendum{Layer: l, History: v1.History{Created: created, CreatedBy: "ephemeral-builder"}})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", i.Architecture, created
	config.Config = v1.Config{
		User:       "builder",
		WorkingDir: home,
		Env:        []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"}, // Debian's for users
		Entrypoint: []string{"/bin/sh", "-c", fillHome, "sh"},
		Cmd:        []string{"/bin/bash", "-l"},
		Labels:     about,
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, err
	}
	return mutate.Annotations(img, about).(v1.Image), nil
}

func (i Image) platform() *v1.Platform {
	return &v1.Platform{OS: "linux", Architecture: i.Architecture}
}

func (i Image) String() string { return fmt.Sprintf("%s %s for %s", i.Name, i.Version, i.Architecture) }
