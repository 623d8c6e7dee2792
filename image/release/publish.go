package release

import (
	"context"
	"os"
	"path/filepath"

	"ephemeral-builder/image"
	"ephemeral-builder/image/oci"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/simplestreams"
	"ephemeral-builder/image/sysupdate"
)

// Publish is [Make] with all that this project publishes images as: an OCI layout in oci/
// and Incus' streams/, too. To a repository, if one is named, the newest version of each
// image is pushed after that; it must have a single name. Transfer files for
// systemd-sysupdate are there if url, where the folder is served, was told now or before.
func Publish(ctx context.Context, rep *progress.Reporter, o Options, url, repository string) (Result, error) {
	o.Trees = []string{"oci", "streams"}
	o.Generators = []Generator{
		func(ctx context.Context, dir string, images []Image) error {
			var all []oci.Image
			for _, img := range images {
				arch, err := image.ArchNamed(img.Manifest.Architecture)
				if err != nil {
					return err
				}
				all = append(all, oci.Image{
					Name: img.Manifest.Name, Version: img.Manifest.Version, Architecture: arch.Debian,
					Tarball: filepath.Join(dir, img.Manifest.Stem()+".tar.zst"), TarSHA256: img.Manifest.Tar.SHA256,
					Created: img.Manifest.Epoch(), Revision: img.Manifest.Tools["ephemeral-builder"],
				})
			}
			return oci.Write(ctx, rep, filepath.Join(dir, "oci"), filepath.Join(o.Out, "oci"), all)
		},
		func(ctx context.Context, dir string, images []Image) error {
			var all []simplestreams.Image
			for _, img := range images {
				arch, err := image.ArchNamed(img.Manifest.Architecture)
				if err != nil {
					return err
				}
				all = append(all, simplestreams.Image{
					Name: img.Manifest.Name, Version: img.Manifest.Version, Architecture: arch.Debian,
					Codename: img.Manifest.Codename, Created: img.Manifest.Epoch(), Tarball: img.Manifest.Stem() + ".tar.xz",
				})
			}
			return simplestreams.Write(ctx, dir, all)
		},
		func(_ context.Context, dir string, images []Image) error {
			if url == "" {
				url = publishedURL(o.Out, images)
			}
			if url == "" {
				return nil
			}
			for _, img := range images {
				files, err := sysupdate.Transfers(sysupdate.Options{URL: url, Name: img.Manifest.Name, Dir: "/var/lib/container", Keep: 2})
				if err != nil {
					return err
				}
				for _, file := range files {
					if err := os.WriteFile(filepath.Join(dir, file.Name), file.Text, 0o644); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
	result, err := Make(ctx, rep, o)
	if err != nil || repository == "" {
		return result, err
	}
	return result, push(ctx, rep, o.Out, repository, result.Images)
}

// publishedURL is what the transfer files say that are published already, or empty: it need
// be told once only.
func publishedURL(dir string, images []Image) string {
	for _, img := range images {
		text, err := os.ReadFile(filepath.Join(dir, img.Manifest.Name+sysupdate.Suffix))
		if err == nil {
			return sysupdate.URL(text)
		}
	}
	return ""
}

// push pushes the newest version of each name, for all of its architectures.
func push(ctx context.Context, rep *progress.Reporter, dir, repository string, images []Image) error {
	pushed := map[string]bool{}
	for _, img := range images { // newest first
		m := img.Manifest
		if pushed[m.Name] {
			continue
		}
		pushed[m.Name] = true
		stage := rep.Stage("push")
		stage.Detail("%s %s", m.Name, m.Version)
		ref, err := oci.Push(ctx, filepath.Join(dir, "oci"), m.Name, m.Version, repository+"/"+m.Name)
		if err != nil {
			stage.Fail()
			return err
		}
		stage.Done("%s", ref)
	}
	return nil
}
