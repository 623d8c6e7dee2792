package image

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"ephemeral-builder/image/archive"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/inventory"
	"ephemeral-builder/image/lock"
	"ephemeral-builder/image/provenance"
	"ephemeral-builder/image/sbom"
)

// What the names of an image's files end with, after NAME_VERSION_ARCH.
const (
	tarballSuffix    = ".tar.zst"
	manifestSuffix   = ".manifest.json"
	lockSuffix       = ".lock"
	cyclonedxSuffix  = ".cdx.json"
	spdxSuffix       = ".spdx.json"
	provenanceSuffix = ".provenance.json"
)

// program is what we call ourselves.
const program = "ephemeral-builder"

// describe writes the files that describe the packed image beside path, and returns their
// paths.
func (b *builder) describe(ctx context.Context, path string, packed archive.Summary, compressed File, contents *inventory.Inventory) ([]string, error) {
	packages, err := contents.Packages()
	if err != nil {
		return nil, err
	}
	system, err := contents.System()
	if err != nil {
		return nil, err
	}
	tools, err := b.tools(ctx)
	if err != nil {
		return nil, err
	}
	debian := b.lock.Sources[0]
	manifest := Manifest{
		Name: b.Spec.Name, Version: b.Version, Architecture: b.arch.Systemd,
		Suite: debian.Suite, Codename: debian.Codename, ReleaseDate: debian.Date, Mirror: debian.URI,
		SourceDateEpoch: b.Epoch.Unix(),
		Tar:             File{packed.TarSHA256, packed.TarSize},
		Compressed:      compressed,
		Spec:            b.Spec, Inputs: b.digest, Tools: tools,
	}
	debs := map[string]string{}
	for _, p := range b.lock.Packages {
		debs[p.Name+"_"+p.Architecture] = p.SHA256
	}
	for _, p := range packages {
		manifest.Packages = append(manifest.Packages, Package{p.Name, p.Version, p.Architecture})
	}
	if err := sameAsLock(manifest.Packages, b.lock); err != nil {
		return nil, err
	}
	subject := sbom.Subject{
		Name: b.Spec.Name, Version: b.Version, Architecture: b.arch.Systemd, TarSHA256: packed.TarSHA256, Epoch: b.Epoch,
		System: system, Debs: debs, Tool: program, ToolVersion: tools[program],
	}
	written := []string{path + lockSuffix}
	if err := b.lock.Write(path + lockSuffix); err != nil {
		return nil, err
	}
	for _, document := range []struct {
		suffix string
		make   func() ([]byte, error)
	}{
		{manifestSuffix, func() ([]byte, error) {
			text, err := json.MarshalIndent(manifest, "", "  ")
			return append(text, '\n'), err
		}},
		{cyclonedxSuffix, func() ([]byte, error) { return sbom.CycloneDX(subject, packages) }},
		{spdxSuffix, func() ([]byte, error) { return sbom.SPDX(subject, packages) }},
		{provenanceSuffix, func() ([]byte, error) {
			stem := manifest.Stem()
			return provenance.Statement(provenance.Build{
				Subjects: []provenance.Subject{{Name: stem + ".tar", SHA256: packed.TarSHA256}, {Name: stem + tarballSuffix, SHA256: compressed.SHA256}},
				Spec:     b.Spec, Inputs: b.digest, Version: b.Version, Architecture: b.arch.Systemd,
				Epoch: b.Epoch, Lock: b.lock, Tool: tools, Commit: b.Commit,
			})
		}},
	} {
		text, err := document.make()
		if err != nil {
			return nil, fmt.Errorf("writing %s: %w", document.suffix, err)
		}
		if err := os.WriteFile(path+document.suffix, text, 0o644); err != nil {
			return nil, err
		}
		written = append(written, path+document.suffix)
	}
	return written, nil
}

// sameAsLock refuses an image whose packages are not those of its lock, as when a hook
// has installed or removed some.
func sameAsLock(packages []Package, l lock.Lock) error {
	entries := make([]lock.Entry, len(packages))
	for i, p := range packages {
		entries[i] = lock.Entry(p)
	}
	if changes := lock.Diff(l.Entries(), entries); len(changes) > 0 {
		return fmt.Errorf("the image's packages are not those of the lock: name them in the spec, and let no hook install any:\n%s", lock.Table(changes))
	}
	return nil
}

// tools are the versions of the programs that take part.
func (b *builder) tools(ctx context.Context) (map[string]string, error) {
	tools := map[string]string{program: b.Commit, "go": strings.TrimPrefix(runtime.Version(), "go")}
	if b.Commit == "" {
		tools[program] = "unknown"
	}
	for _, name := range []string{"debootstrap", "tar", "apt-get"} {
		out, err := command.Output(ctx, command.Cmd{Args: []string{name, "--version"}, Env: []string{"LC_ALL=C"}})
		if err != nil {
			return nil, err
		}
		first, _, _ := strings.Cut(string(out), "\n")
		tools[name] = strings.TrimSpace(first)
	}
	return tools, nil
}

// stem is what the names of the image's files begin with.
func (b *builder) stem() string {
	return Manifest{Name: b.Spec.Name, Version: b.Version, Architecture: b.arch.Systemd}.Stem()
}

// image is where the image's files are in a folder.
func (b *builder) image(dir string) Image {
	stem := filepath.Join(dir, b.stem())
	return Image{Tarball: stem + tarballSuffix, Manifest: stem + manifestSuffix}
}
