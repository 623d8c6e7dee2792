package oci

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Push copies a version of the image name from the layout dir to repository
// ("registry.example.org/group/name"), under its [Tag] or the one that repository has at
// its end. It returns the reference by its digest, "REPOSITORY@sha256:…". A tag that
// is there with other contents is an error, with the same it is not.
//
// Registries on localhost and in private IPv4 networks are asked with http, all others
// with https. Who is to log in stands where `docker login` and `podman login` write it.
func Push(ctx context.Context, dir, imageName, version, repository string) (string, error) {
	image, want, err := find(dir, imageName, version)
	if err != nil {
		return "", err
	}
	ref, err := name.ParseReference(repository, name.WithDefaultTag(Tag(version)))
	if err != nil {
		return "", fmt.Errorf("%w: use HOST/PATH or HOST/PATH:TAG", err)
	}
	if _, ok := ref.(name.Tag); !ok {
		return "", fmt.Errorf("%s has a digest, which the image brings itself: use HOST/PATH or HOST/PATH:TAG", repository)
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	there, err := remote.Head(ref, options...)
	switch {
	case err == nil && there.Digest != want:
		return "", fmt.Errorf("%s is there already with other contents (%s): push under another tag, or build with another -version", ref, there.Digest)
	case err == nil:
	case status(err) == http.StatusNotFound, denied(err): // some deny what a first push will make
		if err := remote.Push(ref, image, options...); err != nil {
			return "", explain(ref, err)
		}
	default:
		return "", explain(ref, err)
	}
	return ref.Context().Digest(want.String()).String(), nil
}

// find looks a version up in a layout.
func find(dir, imageName, version string) (remote.Taggable, v1.Hash, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, v1.Hash{}, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, v1.Hash{}, err
	}
	full := imageName + ":" + Tag(version)
	for _, d := range manifest.Manifests {
		if d.Annotations["io.containerd.image.name"] != full {
			continue
		}
		if d.MediaType.IsIndex() {
			found, err := index.ImageIndex(d.Digest)
			return found, d.Digest, err
		}
		found, err := index.Image(d.Digest)
		return found, d.Digest, err
	}
	return nil, v1.Hash{}, fmt.Errorf("%s has no %s: publish it first", dir, full)
}

func status(err error) int {
	var answer *transport.Error
	if errors.As(err, &answer) {
		return answer.StatusCode
	}
	return 0
}

func denied(err error) bool {
	return status(err) == http.StatusUnauthorized || status(err) == http.StatusForbidden
}

// explain adds what can be done about it.
func explain(ref name.Reference, err error) error {
	err = fmt.Errorf("pushing %s: %w", ref, err)
	if denied(err) {
		return fmt.Errorf("%w: log in with: docker login %s", err, ref.Context().RegistryStr())
	}
	return err
}
