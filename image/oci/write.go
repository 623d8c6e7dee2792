package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"ephemeral-builder/image/progress"
)

// Write makes a layout of images in dir, a folder that does not exist yet. Layers that are
// in the layout previous already become hard links to its blobs; it may be absent. The
// same images give the same bytes, whatever there was before.
//
// In index.json an image has the annotations
//
//	org.opencontainers.image.ref.name   NAME:TAG, for podman pull oci:DIR:NAME:TAG, which
//	                                    would take a TAG alone for the name of the image
//	io.containerd.image.name            NAME:TAG, for containerd
//
// Versions that exist for several architectures are an index of their own, from which each
// consumer takes what it can run.
func Write(ctx context.Context, rep *progress.Reporter, dir, previous string, images []Image) error {
	groups, err := group(images)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("the layout must be a new folder: %w", err)
	}
	if err := os.MkdirAll(blobs(dir), 0o755); err != nil {
		return err
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	known := published(previous)
	var archives []archive
	for _, g := range groups {
		var built []v1.Image
		for _, i := range g.images {
			l, err := place(ctx, rep, dir, known, i)
			if err != nil {
				return err
			}
			layer, err := partial.CompressedToLayer(l)
			if err != nil {
				return err
			}
			img, err := i.build(layer)
			if err != nil {
				return err
			}
			a, err := newArchive(g, i, img)
			if err != nil {
				return err
			}
			archives, built = append(archives, a), append(built, img)
		}
		if err := g.append(path, built); err != nil {
			return err
		}
	}
	text, err := json.Marshal(archives)
	if err != nil {
		return err
	}
	if err := path.WriteFile("manifest.json", text, 0o644); err != nil {
		return err
	}
	return readable(dir)
}

// place puts the layer of an image into the layout.
func place(ctx context.Context, rep *progress.Reporter, dir string, known map[v1.Hash]layer, i Image) (layer, error) {
	if l, ok := known[v1.Hash{Algorithm: "sha256", Hex: i.TarSHA256}]; ok {
		if l, err := l.link(ctx, dir); err == nil {
			return l, nil
		} else if ctx.Err() != nil {
			return l, context.Cause(ctx)
		}
	}
	stage := rep.Stage("oci")
	defer stage.Fail() // of no effect after Done
	stage.Detail("%s", i)
	l, err := compress(ctx, stage, dir, i)
	if err == nil {
		stage.Done("%s, %d MiB", i, l.size>>20)
	}
	return l, err
}

// version is what is pulled by one tag: an image for each of its architectures.
type version struct {
	ref    string // NAME:TAG
	images []Image
}

// group sorts images into versions, in the order in which they come.
func group(images []Image) ([]*version, error) {
	var groups []*version
	byRef := map[string]*version{}
	for _, i := range images {
		ref := i.Name + ":" + Tag(i.Version)
		g := byRef[ref]
		if g == nil {
			g = &version{ref: ref}
			byRef[ref] = g
			groups = append(groups, g)
		}
		for _, other := range g.images {
			if other.Version != i.Version {
				return nil, fmt.Errorf("versions %s and %s are both tagged %s: rename one of them", other.Version, i.Version, ref)
			}
			if other.Architecture == i.Architecture {
				return nil, fmt.Errorf("%s is there twice", i)
			}
		}
		g.images = append(g.images, i)
	}
	return groups, nil
}

// append lists the version in index.json.
func (g *version) append(path layout.Path, built []v1.Image) error {
	annotations := layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": g.ref,
		"io.containerd.image.name":          g.ref,
	})
	if len(built) == 1 {
		return path.AppendImage(built[0], annotations, layout.WithPlatform(*g.images[0].platform()))
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for n, img := range built {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: g.images[n].platform()}})
	}
	return path.AppendIndex(index, annotations)
}

// archive is an image in manifest.json (moby, image/spec: "Combined Image JSON + Filesystem
// Changeset Format"). Docker gives one tag to one architecture only.
type archive struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func newArchive(g *version, i Image, img v1.Image) (archive, error) {
	manifest, err := img.Manifest()
	if err != nil {
		return archive{}, err
	}
	tag := g.ref
	if len(g.images) > 1 {
		tag += "-" + i.Architecture
	}
	const dir = "blobs/sha256/"
	return archive{dir + manifest.Config.Digest.Hex, []string{tag}, []string{dir + manifest.Layers[0].Digest.Hex}}, nil
}

// readable lets a web server read what is in dir, whatever the umask. The library makes some
// files executable, too.
func readable(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return os.Chmod(path, 0o644)
	})
}
