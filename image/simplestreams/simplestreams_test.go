package simplestreams

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 2, 12, 0, 30, 0, time.UTC)

// folder makes a folder with a tarball for each image, and says which.
func folder(t *testing.T, images ...Image) (string, []Image) {
	t.Helper()
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("needs xz: apt install xz-utils")
	}
	dir := t.TempDir()
	for i := range images {
		images[i].Tarball = images[i].Name + "_" + images[i].Version + "_" + images[i].Architecture + ".tar.xz"
		if err := os.WriteFile(filepath.Join(dir, images[i].Tarball), []byte("root of "+images[i].Tarball), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, images
}

func image(name, version, arch, codename string, created time.Time) Image {
	return Image{Name: name, Version: version, Architecture: arch, Codename: codename, Created: created}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func decode(t *testing.T, path string, into any) {
	t.Helper()
	if err := json.Unmarshal(read(t, path), into); err != nil {
		t.Fatal(err)
	}
}

type catalog struct {
	Products map[string]product `json:"products"`
}

func sum(parts ...[]byte) string {
	sum := sha256.Sum256(bytes.Join(parts, nil))
	return hex.EncodeToString(sum[:])
}

func TestWrite(t *testing.T) {
	dir, images := folder(t, image("ci", "1", "amd64", "trixie", noon))
	if err := Write(t.Context(), dir, images); err != nil {
		t.Fatal(err)
	}
	meta, root := read(t, filepath.Join(dir, "ci_1_amd64.incus.tar.xz")), read(t, filepath.Join(dir, images[0].Tarball))

	var c catalog
	decode(t, filepath.Join(dir, "streams/v1/images.json"), &c)
	p, ok := c.Products["Debian:trixie:ci:amd64"]
	if !ok || len(c.Products) != 1 {
		t.Fatalf("got products %v", c.Products)
	}
	if got, want := p.Aliases, "ci/trixie,ci"; got != want {
		t.Errorf("aliases: got %q, want %q", got, want)
	}
	v, ok := p.Versions["202601021200"]
	if !ok || v.Label != "1" {
		t.Fatalf("got versions %v", p.Versions)
	}
	want := map[string]item{
		"incus.tar.xz": {"incus.tar.xz", "ci_1_amd64.incus.tar.xz", sum(meta), int64(len(meta)), sum(meta, root)},
		"root.tar.xz":  {"root.tar.xz", "ci_1_amd64.tar.xz", sum(root), int64(len(root)), ""},
	}
	if !maps.Equal(v.Items, want) {
		t.Errorf("got %v, want %v", v.Items, want)
	}

	var index struct {
		Format string
		Index  map[string]struct {
			Path     string
			Products []string
		}
	}
	decode(t, filepath.Join(dir, "streams/v1/index.json"), &index)
	if got := index.Index["images"]; index.Format != "index:1.0" || got.Path != "streams/v1/images.json" || !slices.Equal(got.Products, []string{"Debian:trixie:ci:amd64"}) {
		t.Errorf("got %v", index)
	}

	h, text := metadata(t, meta)
	if h.Name != "metadata.yaml" || h.ModTime.Unix() != noon.Unix() || h.Uname != "" {
		t.Errorf("got %+v", h)
	}
	var about struct {
		Architecture string
		CreationDate int64 `json:"creation_date"`
		Properties   map[string]string
	}
	if err := json.Unmarshal(text, &about); err != nil {
		t.Fatal(err)
	}
	// What incus-simplestreams demands.
	for _, key := range []string{"os", "release", "variant", "architecture", "description"} {
		if about.Properties[key] == "" {
			t.Errorf("metadata.yaml has no property %s", key)
		}
	}
	if about.Architecture != "amd64" || about.CreationDate != noon.Unix() {
		t.Errorf("got %+v", about)
	}
}

func metadata(t *testing.T, xz []byte) (*tar.Header, []byte) {
	t.Helper()
	cmd := exec.Command("xz", "--decompress", "--stdout")
	cmd.Stdin = bytes.NewReader(xz)
	plain, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(plain))
	h, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return h, text
}

// Incus orders versions by their keys: those must follow the order of the images.
func TestOrder(t *testing.T) {
	dir, images := folder(t,
		image("ci", "10", "amd64", "trixie", noon),
		image("ci", "9", "amd64", "trixie", noon.Add(20*time.Second)),  // in the same minute
		image("ci", "8", "amd64", "trixie", noon.Add(24*time.Hour)),    // of a later time
		image("ci", "7", "amd64", "trixie", noon.Add(-24*time.Hour)),   // as it should be
		image("ci", "6", "amd64", "bookworm", noon.Add(-48*time.Hour)), // other products
		image("ci", "10", "arm64", "trixie", noon),
		image("lean", "1", "amd64", "trixie", noon),
	)
	if err := Write(t.Context(), dir, images); err != nil {
		t.Fatal(err)
	}
	var c catalog
	decode(t, filepath.Join(dir, "streams/v1/images.json"), &c)
	p := c.Products["Debian:trixie:ci:amd64"]
	var got []string
	for _, key := range slices.Sorted(maps.Keys(p.Versions)) {
		got = append(got, key+"="+p.Versions[key].Label)
	}
	if want := []string{"202601011200=7", "202601021158=8", "202601021159=9", "202601021200=10"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for key, want := range map[string]string{
		"Debian:trixie:ci:amd64":   "ci/trixie,ci",
		"Debian:bookworm:ci:amd64": "ci/bookworm", // as "ci" is the newest
		"Debian:trixie:ci:arm64":   "ci/trixie,ci",
		"Debian:trixie:lean:amd64": "lean/trixie,lean",
	} {
		if got := c.Products[key].Aliases; got != want {
			t.Errorf("%s: got aliases %q, want %q", key, got, want)
		}
	}
}

// The fingerprint of what is published never changes, and the folder's own file is not
// written to.
func TestAgain(t *testing.T) {
	dir, images := folder(t, image("ci", "1", "amd64", "trixie", noon))
	published := filepath.Join(dir, "ci_1_amd64.incus.tar.xz")
	if err := os.WriteFile(published, []byte("of another xz"), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), dir, images); err != nil {
		t.Fatal(err)
	}
	if got := read(t, published); string(got) != "of another xz" {
		t.Errorf("it was written anew: %q", got)
	}
	var c catalog
	decode(t, filepath.Join(dir, "streams/v1/images.json"), &c)
	root := read(t, filepath.Join(dir, images[0].Tarball))
	got := c.Products["Debian:trixie:ci:amd64"].Versions["202601021200"].Items["incus.tar.xz"].CombinedSHA256
	if want := sum([]byte("of another xz"), root); got != want {
		t.Errorf("got fingerprint %s, want %s", got, want)
	}
}

func TestWriteRefuses(t *testing.T) {
	dir, images := folder(t, image("ci", "1", "amd64", "trixie", noon))
	images[0].Tarball = "ci_1_amd64.tar.zst"
	if err := Write(t.Context(), dir, images); err == nil || !strings.Contains(err.Error(), "Incus takes no tarball but .tar.xz") {
		t.Errorf("got %v", err)
	}
	images[0].Tarball = "absent.tar.xz"
	if err := Write(t.Context(), dir, images); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
