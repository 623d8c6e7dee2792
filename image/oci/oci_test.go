package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/klauspost/compress/zstd"
)

// testImage packs a tarball with one file, longer than what is compressed in one go.
func testImage(t *testing.T, version, content string) Image {
	t.Helper()
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	text := strings.Repeat(content, 3<<20/len(content))
	if err := w.WriteHeader(&tar.Header{Name: "./text", Mode: 0o644, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(plain.Bytes())
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.WriteTo(z); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	tarball := filepath.Join(t.TempDir(), "image.tar.zst")
	if err := os.WriteFile(tarball, packed.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return Image{
		Name: "ci", Version: version, Architecture: "amd64", Tarball: tarball,
		TarSHA256: hex.EncodeToString(sum[:]), Created: time.Unix(1700000000, 0), Revision: "4f2a",
	}
}

func write(t *testing.T, previous string, images ...Image) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "oci")
	if err := Write(t.Context(), nil, dir, previous, images); err != nil {
		t.Fatal(err)
	}
	return dir
}

func index(t *testing.T, dir string) v1.ImageIndex {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	return index
}

// files maps the names of all files below dir to their contents.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, path))
		found[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestWrite(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	i := testImage(t, "1.2~rc1+b1", "abc")
	dir := write(t, "", i)

	manifest, err := index(t, dir).IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("got %d images, want 1", len(manifest.Manifests))
	}
	d := manifest.Manifests[0]
	if got, want := d.Annotations["org.opencontainers.image.ref.name"], "ci:1.2_rc1_b1"; got != want {
		t.Errorf("ref.name: got %q, want %q", got, want)
	}
	if got, want := d.Annotations["io.containerd.image.name"], "ci:1.2_rc1_b1"; got != want {
		t.Errorf("containerd's name: got %q, want %q", got, want)
	}
	if got, want := d.Platform.String(), "linux/amd64"; got != want {
		t.Errorf("platform: got %q, want %q", got, want)
	}
	img, err := index(t, dir).Image(d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := config.RootFS.DiffIDs, (v1.Hash{Algorithm: "sha256", Hex: i.TarSHA256}); len(got) != 1 || got[0] != want {
		t.Errorf("diff_ids: got %v, want %v", got, want)
	}
	if !config.Created.Equal(i.Created) || config.Architecture != "amd64" || config.OS != "linux" {
		t.Errorf("got %s %s %s", config.Created, config.Architecture, config.OS)
	}
	if got := config.Config; got.User != "builder" || got.WorkingDir != "/home/builder" {
		t.Errorf("got user %q in %q", got.User, got.WorkingDir)
	}
	for key, want := range map[string]string{"title": "ci", "version": "1.2~rc1+b1", "created": "2023-11-14T22:13:20Z", "revision": "4f2a"} {
		if got := config.Config.Labels["org.opencontainers.image."+key]; got != want {
			t.Errorf("label %s: got %q, want %q", key, got, want)
		}
	}

	var archives []archive
	all := files(t, dir)
	if err := json.Unmarshal([]byte(all["manifest.json"]), &archives); err != nil || len(archives) != 1 {
		t.Fatalf("manifest.json: %v: %s", err, all["manifest.json"])
	}
	a := archives[0]
	if !slices.Equal(a.RepoTags, []string{"ci:1.2_rc1_b1"}) || all[a.Config] == "" || all[a.Layers[0]] == "" {
		t.Errorf("docker would not find %v", a)
	}
	if len(all) != 6 { // three blobs and three more
		t.Errorf("got %d files, want 6: %v", len(all), all)
	}
	for name := range all {
		for path := filepath.Join(dir, name); path != filepath.Dir(dir); path = filepath.Dir(path) {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o044 != 0o044 || info.Mode().IsRegular() && info.Mode().Perm() != 0o644 {
				t.Errorf("%s: %v %v", path, info.Mode(), err)
			}
		}
	}
}

// The bytes depend neither on the number of cores nor on what there was before.
func TestSameBytes(t *testing.T) {
	one, two := testImage(t, "1", "abc"), testImage(t, "2", "defg")
	first := write(t, "", one)
	second := write(t, first, one, two)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if a, b := files(t, second), files(t, write(t, "", one, two)); !equal(a, b) {
		t.Error("a layout that was added to differs from one made at once")
	}
}

func equal(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for name := range a {
		if b[name] != a[name] {
			return false
		}
	}
	return true
}

func blob(i Image, t *testing.T, dir string) string {
	t.Helper()
	l, ok := published(dir)[v1.Hash{Algorithm: "sha256", Hex: i.TarSHA256}]
	if !ok {
		t.Fatalf("no layer of %s in %s", i, dir)
	}
	return l.path
}

func TestReuse(t *testing.T) {
	one, two, three := testImage(t, "1", "abc"), testImage(t, "2", "defg"), testImage(t, "3", "hijkl")
	first := write(t, "", one, two)
	for _, i := range []*Image{&one, &two} {
		if err := os.Remove(i.Tarball); err != nil { // it is not needed again
			t.Fatal(err)
		}
	}
	second := write(t, first, two, three)
	before, err := os.Stat(blob(two, t, first))
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(blob(two, t, second))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("the layer of an image that was there is another file")
	}
	gone := filepath.Base(blob(one, t, first))
	if _, err := os.Stat(filepath.Join(blobs(second), gone)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the layer of a version that has gone: got %v, want none", err)
	}
	if got := len(files(t, second)); got != 2*3+3 {
		t.Errorf("got %d files, want 9", got)
	}
	index(t, second)
}

// A published blob that is damaged is made anew and not passed on.
func TestReuseDamaged(t *testing.T) {
	one := testImage(t, "1", "abc")
	first := write(t, "", one)
	path := blob(one, t, first)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	index(t, write(t, first, one))
}

func TestArchitectures(t *testing.T) {
	amd, arm, other := testImage(t, "1", "abc"), testImage(t, "1", "defg"), testImage(t, "1", "abc")
	arm.Architecture, other.Name = "arm64", "other"
	dir := write(t, "", amd, arm, other)
	manifest, err := index(t, dir).IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var refs []string
	for _, d := range manifest.Manifests {
		refs = append(refs, d.Annotations["org.opencontainers.image.ref.name"])
	}
	if want := []string{"ci:1", "other:1"}; !slices.Equal(refs, want) {
		t.Errorf("got %q, want %q", refs, want)
	}
	nested, err := index(t, dir).ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	both, err := nested.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, d := range both.Manifests {
		platforms = append(platforms, d.Platform.String())
	}
	if want := []string{"linux/amd64", "linux/arm64"}; !slices.Equal(platforms, want) {
		t.Errorf("got %q, want %q", platforms, want)
	}
	if text := files(t, dir)["manifest.json"]; !strings.Contains(text, `["ci:1-amd64"]`) || !strings.Contains(text, `["ci:1-arm64"]`) || !strings.Contains(text, `["other:1"]`) {
		t.Errorf("docker's tags: %s", text)
	}
	// The layers are found again below the index.
	if got := published(dir); len(got) != 2 {
		t.Errorf("got %d layers, want 2", len(got))
	}
}

func TestWriteRefuses(t *testing.T) {
	one := testImage(t, "1", "abc")
	tilde, plus, wrong, short := one, one, one, one
	tilde.Version, plus.Version = "1~1", "1+1"
	wrong.TarSHA256 = strings.Repeat("0", 64)
	short.Tarball = filepath.Join(t.TempDir(), "short.tar.zst")
	text, err := os.ReadFile(one.Tarball)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(short.Tarball, text[:len(text)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	for name, test := range map[string]struct {
		ctx    context.Context
		images []Image
		want   string
	}{
		"other contents": {t.Context(), []Image{wrong}, "does not have the contents its manifest names: build the image again"},
		"cut short":      {t.Context(), []Image{short}, "unexpected EOF"},
		"one tag":        {t.Context(), []Image{tilde, plus}, "versions 1~1 and 1+1 are both tagged ci:1_1: rename one of them"},
		"twice":          {t.Context(), []Image{one, one}, "ci 1 for amd64 is there twice"},
		"cancelled":      {cancelled, []Image{one}, "enough"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Write(test.ctx, nil, filepath.Join(t.TempDir(), "oci"), "", test.images)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	if err := Write(t.Context(), nil, t.TempDir(), "", []Image{one}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("into a folder that exists: got %v", err)
	}
}
