package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"

	"ephemeral-builder/image/progress"
)

// layer is a blob of a layout, whose digests are known and need not be computed again. It is
// a partial.CompressedLayer.
type layer struct {
	path           string
	digest, diffID v1.Hash
	size           int64 // of the file
}

func (l layer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l layer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l layer) Size() (int64, error)                { return l.size, nil }
func (l layer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (l layer) Compressed() (io.ReadCloser, error)  { return os.Open(l.path) }

// blobs is the folder of all blobs of a layout.
func blobs(dir string) string { return filepath.Join(dir, "blobs", "sha256") }

// published finds the layers of a layout by their diff_id. A layout that can't be read has
// none, as all of them can be made anew.
func published(dir string) map[v1.Hash]layer {
	found := map[v1.Hash]layer{}
	if index, err := layout.ImageIndexFromPath(dir); err == nil {
		collect(dir, index, found)
	}
	return found
}

func collect(dir string, index v1.ImageIndex, found map[v1.Hash]layer) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return
	}
	for _, d := range manifest.Manifests {
		if nested, err := index.ImageIndex(d.Digest); err == nil && d.MediaType.IsIndex() {
			collect(dir, nested, found)
			continue
		}
		img, err := index.Image(d.Digest)
		if err != nil {
			continue
		}
		manifest, err := img.Manifest()
		if err != nil || len(manifest.Layers) != 1 {
			continue
		}
		config, err := img.ConfigFile()
		if err != nil || len(config.RootFS.DiffIDs) != 1 {
			continue
		}
		l := layer{digest: manifest.Layers[0].Digest, size: manifest.Layers[0].Size, diffID: config.RootFS.DiffIDs[0]}
		l.path = filepath.Join(blobs(dir), l.digest.Hex)
		found[l.diffID] = l
	}
}

// link puts a published layer into the layout dir too. It fails if the blob is not what its
// name says, or is on another file system.
func (l layer) link(ctx context.Context, dir string) (layer, error) {
	f, err := os.Open(l.path)
	if err != nil {
		return l, err
	}
	defer f.Close()
	got, size, err := v1.SHA256(reader{ctx, f})
	if err != nil {
		return l, err
	}
	if got != l.digest || size != l.size {
		return l, fmt.Errorf("%s is damaged", l.path)
	}
	old := l.path
	l.path = filepath.Join(blobs(dir), l.digest.Hex)
	if _, err := os.Stat(l.path); err == nil {
		return l, nil // two names for the same tree
	}
	return l, os.Link(old, l.path)
}

// compress makes the layer of an image in the layout dir.
func compress(ctx context.Context, stage *progress.Stage, dir string, i Image) (_ layer, err error) {
	in, err := os.Open(i.Tarball)
	if err != nil {
		return layer{}, err
	}
	defer in.Close()
	tar, err := zstd.NewReader(reader{ctx, in})
	if err != nil {
		return layer{}, err
	}
	defer tar.Close()
	out, err := os.CreateTemp(blobs(dir), ".new-")
	if err != nil {
		return layer{}, err
	}
	defer os.Remove(out.Name())
	defer out.Close()

	digest, diffID := sha256.New(), sha256.New()
	packed := &counter{stage: stage}
	zip := pgzip.NewWriter(io.MultiWriter(out, digest, packed))
	zip.ModTime = time.Unix(0, 0) // "not available" in the header; the zero Time is written as some other number
	if _, err := io.Copy(io.MultiWriter(zip, diffID), tar); err != nil {
		_ = zip.Close() // ends its goroutines
		return layer{}, fmt.Errorf("compressing %s: %w", i.Tarball, err)
	}
	if err := zip.Close(); err != nil {
		return layer{}, fmt.Errorf("compressing %s: %w", i.Tarball, err)
	}
	if got := hex.EncodeToString(diffID.Sum(nil)); got != i.TarSHA256 {
		return layer{}, fmt.Errorf("%s does not have the contents its manifest names: build the image again", i.Tarball)
	}
	l := layer{
		digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(digest.Sum(nil))},
		diffID: v1.Hash{Algorithm: "sha256", Hex: i.TarSHA256},
		size:   packed.size,
	}
	l.path = filepath.Join(blobs(dir), l.digest.Hex)
	if err := out.Close(); err != nil {
		return layer{}, err
	}
	return l, os.Rename(out.Name(), l.path)
}

// counter counts what is written, and shows it.
type counter struct {
	stage *progress.Stage
	size  int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.size += int64(len(p))
	c.stage.Set(c.size)
	return len(p), nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}
