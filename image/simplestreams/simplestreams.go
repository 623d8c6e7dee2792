// Package simplestreams adds to a published folder what makes it an image server for Incus
// (incus remote add NAME URL --protocol=simplestreams): an index in streams/v1, and for
// each image a small tarball that describes it. The root file system is the .tar.xz that
// is published anyway, beside them.
//
//	NAME_VERSION_ARCH.incus.tar.xz   metadata.yaml
//	streams/v1/index.json
//	streams/v1/images.json
//
// The format is that of Incus' shared/simplestreams; Incus' "split image" of its
// doc/reference/image_format.md. It has no signatures: Incus trusts the server's
// certificate, and the sums in images.json.
package simplestreams

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/command"
)

// Image is one published image.
type Image struct {
	Name         string // "ephemeral-builder": the variant, and the alias
	Version      string // a label only, as Incus orders images by time
	Architecture string // Debian's name: "amd64"
	Codename     string // Debian's release: "trixie"
	Created      time.Time
	Tarball      string // bare name of the .tar.xz
}

const rootSuffix, metaSuffix = ".tar.xz", ".incus.tar.xz"

// Write adds images to dir, the folder that has their tarballs. Those of one name and
// architecture come newest first. A description that is there already stays as it is, as its
// image has been fetched by its digest; streams must not be there yet. It runs xz.
//
// Each name is an alias of the newest image of that name, and NAME/CODENAME of the newest with
// that Debian release.
func Write(ctx context.Context, dir string, images []Image) error {
	products := map[string]*product{}
	named := map[string]bool{}
	for _, i := range images {
		p := products[i.key()]
		if p == nil {
			p = i.product()
			if alias := i.Name + " " + i.Architecture; !named[alias] {
				named[alias] = true
				p.Aliases += "," + i.Name
			}
			products[i.key()] = p
		}
		version, err := i.publish(ctx, dir)
		if err != nil {
			return err
		}
		p.add(i.Created, version)
	}
	streams := filepath.Join(dir, "streams", "v1")
	if err := os.MkdirAll(streams, 0o755); err != nil {
		return err
	}
	catalog := map[string]any{
		"content_id": "images", "datatype": "image-downloads", "format": "products:1.0", "products": products,
	}
	keys := []string{}
	for key := range products {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	index := map[string]any{"format": "index:1.0", "index": map[string]any{"images": map[string]any{
		"datatype": "image-downloads", "format": "products:1.0", "path": "streams/v1/images.json", "products": keys,
	}}}
	return errors.Join(writeJSON(filepath.Join(streams, "images.json"), catalog), writeJSON(filepath.Join(streams, "index.json"), index))
}

func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(text, '\n'), 0o644)
}

// product is what differs in nothing but its versions. Its key and those of versions are
// what incus-simplestreams makes.
type product struct {
	Aliases         string             `json:"aliases"` // separated by commas
	Architecture    string             `json:"arch"`
	OperatingSystem string             `json:"os"`
	Release         string             `json:"release"`
	ReleaseTitle    string             `json:"release_title"`
	Variant         string             `json:"variant"`
	Versions        map[string]version `json:"versions"`

	oldest time.Time // of the times that Versions has as keys
}

type version struct {
	Items map[string]item `json:"items"` // by type
	Label string          `json:"label"`
}

type item struct {
	Type           string `json:"ftype"`
	Path           string `json:"path"` // below the server's URL
	SHA256         string `json:"sha256"`
	Size           int64  `json:"size"`
	CombinedSHA256 string `json:"combined_rootxz_sha256,omitempty"` // of both files, one after the other: Incus' fingerprint
}

const operatingSystem = "Debian"

func (i Image) key() string {
	return strings.Join([]string{operatingSystem, i.Codename, i.Name, i.Architecture}, ":")
}

func (i Image) product() *product {
	return &product{
		Aliases: i.Name + "/" + i.Codename, Architecture: i.Architecture, OperatingSystem: operatingSystem,
		Release: i.Codename, ReleaseTitle: i.Codename, Variant: i.Name, Versions: map[string]version{},
	}
}

// add appends the next older version. Incus takes the last key for the newest one, and reads
// a date from it: versions from the same minute, or with times that contradict their
// order, are dated back.
func (p *product) add(created time.Time, v version) {
	created = created.UTC().Truncate(time.Minute)
	if latest := p.oldest.Add(-time.Minute); len(p.Versions) > 0 && created.After(latest) {
		created = latest
	}
	p.oldest = created
	p.Versions[created.Format("200601021504")] = v
}

// publish writes the description of an image, unless there is one, and describes both files.
func (i Image) publish(ctx context.Context, dir string) (version, error) {
	stem, ok := strings.CutSuffix(i.Tarball, rootSuffix)
	if !ok {
		return version{}, fmt.Errorf("%s: Incus takes no tarball but %s", i.Tarball, rootSuffix)
	}
	name := stem + metaSuffix
	path := filepath.Join(dir, name)
	meta, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if meta, err = i.metadata(ctx); err == nil {
			err = atomicfile.Write(path, meta, 0o644)
		}
	}
	if err != nil {
		return version{}, err
	}
	f, err := os.Open(filepath.Join(dir, i.Tarball))
	if err != nil {
		return version{}, err
	}
	defer f.Close()
	root, both := sha256.New(), sha256.New()
	both.Write(meta)
	size, err := io.Copy(io.MultiWriter(root, both), reader{ctx, f})
	if err != nil {
		return version{}, fmt.Errorf("hashing %s: %w", i.Tarball, err)
	}
	sum := sha256.Sum256(meta)
	return version{Label: i.Version, Items: map[string]item{
		"incus.tar.xz": {
			Type: "incus.tar.xz", Path: name, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(meta)),
			CombinedSHA256: hex.EncodeToString(both.Sum(nil)),
		},
		"root.tar.xz": {Type: "root.tar.xz", Path: i.Tarball, SHA256: hex.EncodeToString(root.Sum(nil)), Size: size},
	}}, nil
}

// metadata is the tarball that describes an image.
func (i Image) metadata(ctx context.Context) ([]byte, error) {
	text, err := json.MarshalIndent(map[string]any{ // which is YAML too
		"architecture":  i.Architecture,
		"creation_date": i.Created.Unix(),
		"properties": map[string]string{
			"architecture": i.Architecture,
			"description":  fmt.Sprintf("%s %s (%s %s)", i.Name, i.Version, operatingSystem, i.Codename),
			"os":           operatingSystem,
			"release":      i.Codename,
			"variant":      i.Name,
			"version":      i.Version,
		},
	}, "", "  ")
	if err != nil {
		return nil, err
	}
	text = append(text, '\n')
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	err = w.WriteHeader(&tar.Header{Name: "metadata.yaml", Mode: 0o644, Size: int64(len(text)), ModTime: time.Unix(i.Created.Unix(), 0)})
	if err == nil {
		_, err = w.Write(text)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	return command.Output(ctx, command.Cmd{Args: []string{"xz", "--threads=1", "--stdout"}, Stdin: &plain})
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
