package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	debversion "github.com/knqyf263/go-deb-version"

	"ephemeral-builder/image"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/sums"
)

// build is an image with the files it has in a folder.
type build struct {
	stem     string
	version  debversion.Version
	manifest image.Manifest
	dir      string            // where the manifest was read: o.Out if it is published already
	files    map[string]string // names and their SHA-256
}

// planned is a release before its first file is written.
type planned struct {
	Options
	keep                    []*build          // to be published, by name and architecture, newest first
	built                   map[string]*build // in From, by stem
	before                  map[string]*build // the version before one, by stem; it may be one that goes
	extra                   []string          // files in Out that are not ours and stay: index.html, robots.txt
	sums                    map[string]string // of the files that are known
	added, removed, skipped []string
}

// plan reads both folders, compares all files with their sums, and decides what stays.
func plan(ctx context.Context, rep *progress.Reporter, o Options) (*planned, error) {
	stage := rep.Stage("verify")
	defer stage.Fail()
	p := &planned{Options: o, before: map[string]*build{}, sums: map[string]string{}}
	published, err := p.published(ctx, stage)
	if err != nil {
		return nil, err
	}
	var foreign []string
	if p.built, foreign, err = read(ctx, stage, o.From); err != nil {
		return nil, err
	}
	if len(p.built) == 0 {
		return nil, fmt.Errorf("%s has no image: build one with: go tool mage build", o.From)
	}
	if len(foreign) > 0 {
		rep.Note("left out, as no image in %s has them: %s", o.From, strings.Join(foreign, ", "))
	}

	all := maps.Clone(published)
	for stem, b := range p.built {
		old := published[stem]
		if old == nil {
			all[stem] = b
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(b.files)) {
			if sum, ok := old.files[name]; ok && sum != b.files[name] {
				return nil, fmt.Errorf("%s is published already with other contents: build under another version: %s has %s, %s has %s",
					name, o.Out, sum, o.From, b.files[name])
			}
		}
	}
	sorted := slices.SortedFunc(maps.Values(all), func(a, b *build) int {
		return cmp.Or(
			cmp.Compare(a.manifest.Name, b.manifest.Name),
			cmp.Compare(a.manifest.Architecture, b.manifest.Architecture),
			b.version.Compare(a.version), cmp.Compare(b.stem, a.stem))
	})
	rank := 0
	for i, b := range sorted {
		rank++
		if i == 0 || !sameLine(b, sorted[i-1]) {
			rank = 1
		}
		if i+1 < len(sorted) && sameLine(b, sorted[i+1]) {
			p.before[b.stem] = sorted[i+1]
		}
		stays := o.Keep == 0 || rank <= o.Keep
		switch isPublished := published[b.stem] != nil; {
		case stays:
			p.keep = append(p.keep, b)
			if !isPublished {
				p.added = append(p.added, b.stem)
			}
		case isPublished:
			p.removed = append(p.removed, b.stem)
		default:
			p.skipped = append(p.skipped, b.stem)
		}
	}
	stage.Done("%d versions published, %d built", len(published), len(p.built))
	return p, nil
}

// sameLine tells whether two images are versions of the same.
func sameLine(a, b *build) bool {
	return a.manifest.Name == b.manifest.Name && a.manifest.Architecture == b.manifest.Architecture
}

// published reads what is in Out already. It sets p.extra.
func (p *planned) published(ctx context.Context, stage *progress.Stage) (map[string]*build, error) {
	entries, err := os.ReadDir(p.Out)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return map[string]*build{}, nil
	}
	if err != nil {
		return nil, err
	}
	listed, err := sums.Read(p.Out)
	if errors.Is(err, sums.ErrNoSums) {
		return nil, fmt.Errorf("%s has files but no %s, so nothing was published there: give another folder with -out, or empty it", p.Out, sums.Name)
	}
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		name, path := entry.Name(), filepath.Join(p.Out, entry.Name())
		_, isListed := listed[name]
		switch {
		case strings.HasSuffix(name, ".sha256"):
			return nil, fmt.Errorf("%s keeps systemd 257 and older from reading %s: remove it", path, sums.Name)
		case isListed || name == sums.Name || name == sums.Name+".gpg":
		case entry.IsDir() && slices.Contains(p.Trees, name):
		case isImage(name):
			return nil, fmt.Errorf("%s: %w: remove it, and publish it from where it was built", path, sums.ErrNotListed)
		case entry.Type().IsRegular() || entry.Type() == fs.ModeSymlink:
			p.extra = append(p.extra, name)
		default:
			return nil, fmt.Errorf("%s was not published there, and would be lost: move it away", path)
		}
	}
	if p.Signer != nil && !p.Adopt {
		// Else whoever can write to the web server gets a signature for what they put there.
		if _, err := p.verify(filepath.Join(p.Out, sums.Name)); err != nil {
			return nil, fmt.Errorf("what is published is not signed by this key: %w: to sign all of it nevertheless say -adopt", err)
		}
	}
	builds, _, err := read(ctx, stage, p.Out)
	if err != nil {
		return nil, fmt.Errorf("what is published is damaged: %w; or restore the file, or publish into a new folder", err)
	}
	return builds, nil
}

// suffixes of the files of an image.
var suffixes = []string{".tar.zst", ".tar.xz", ".manifest.json", ".lock", ".cdx.json", ".spdx.json", ".provenance.json", ".md"}

func isImage(name string) bool {
	return slices.Contains(suffixes, strings.TrimPrefix(name, stemOf(name)))
}

// stemOf is the NAME_VERSION_ARCH that a file name begins with, or "". Only the version
// has dots.
func stemOf(name string) string {
	parts := strings.SplitN(name, "_", 3)
	if len(parts) < 3 {
		return ""
	}
	arch, _, _ := strings.Cut(parts[2], ".")
	return parts[0] + "_" + parts[1] + "_" + arch
}

// read finds the images that are listed in a folder's SHA256SUMS, by stem, and compares
// all their files with it. Foreign are the files listed that belong to no image.
func read(ctx context.Context, stage *progress.Stage, dir string) (builds map[string]*build, foreign []string, err error) {
	listed, err := sums.Read(dir)
	if err != nil {
		return nil, nil, err
	}
	builds = map[string]*build{}
	for name := range listed {
		if stem, ok := strings.CutSuffix(name, ".tar.zst"); ok {
			builds[stem] = &build{stem: stem, dir: dir, files: map[string]string{}}
		}
	}
	stage.Total(int64(len(listed)))
	for i, name := range slices.Sorted(maps.Keys(listed)) {
		stage.Set(int64(i))
		b := builds[stemOf(name)]
		if b == nil {
			foreign = append(foreign, name)
			continue
		}
		if strings.HasSuffix(name, ".sha256") {
			return nil, nil, fmt.Errorf("%s keeps systemd 257 and older from reading %s: remove it", filepath.Join(dir, name), sums.Name)
		}
		stage.Detail("%s", name)
		if err := sums.Verify(ctx, dir, name); err != nil {
			return nil, nil, err
		}
		b.files[name] = listed[name]
	}
	for stem, b := range builds {
		path := filepath.Join(dir, stem+".manifest.json")
		if b.files[filepath.Base(path)] == "" {
			return nil, nil, fmt.Errorf("%s: %w: build the image again", path, sums.ErrNotListed)
		}
		if b.manifest, err = image.ReadManifest(path); err != nil {
			return nil, nil, err
		}
		if got := b.manifest.Stem(); got != stem {
			return nil, nil, fmt.Errorf("%s is the manifest of %s: build the image again", path, got)
		}
		if b.version, err = debversion.NewVersion(b.manifest.Version); err != nil {
			return nil, nil, fmt.Errorf("%s has a version that can't be compared: build under another: %w", path, err)
		}
	}
	return builds, foreign, nil
}
