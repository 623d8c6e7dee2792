package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"ephemeral-builder/image"
	"ephemeral-builder/image/archive"
	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/source"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/image/sums"
)

// tree extracts the image to NAME_VERSION, if it is not there already, with its manifest
// beside it.
func (in *installation) tree(ctx context.Context, img *source.Source) (image.Manifest, error) {
	if img.Tarball == "" {
		return image.ReadManifest(img.Manifest)
	}
	from := filepath.Dir(img.Tarball)
	if err := sums.Verify(ctx, from, filepath.Base(img.Manifest)); err != nil {
		return image.Manifest{}, err
	}
	manifest, err := image.ReadManifest(img.Manifest)
	if err != nil {
		return manifest, err
	}
	if filepath.Base(img.Tarball) != manifest.Stem()+".tar.zst" {
		return manifest, fmt.Errorf("%s describes %s: it was renamed, build the image again", img.Manifest, manifest.Stem())
	}
	target := filepath.Join(ContainerDir, manifest.Name+"_"+manifest.Version)
	if _, err := os.Lstat(target); err == nil {
		installed, err := image.ReadManifest(target + ".manifest.json")
		if errors.Is(err, fs.ErrNotExist) && img.Key != "" {
			// Of systemd-sysupdate, which had verified the same signature.
			return manifest, keepManifest(img.Manifest, target)
		} else if errors.Is(err, fs.ErrNotExist) {
			return manifest, fmt.Errorf("%w: install from where %s came from, or build with another -version", err, target)
		} else if err != nil {
			return manifest, err
		}
		if installed.Tar != manifest.Tar {
			return manifest, fmt.Errorf("version %s of %s is installed with other contents: build it with another -version", manifest.Version, manifest.Name)
		}
		return manifest, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return manifest, err
	}

	if err := img.Fetch(ctx, in.rep); err != nil {
		return manifest, err
	}
	stage := in.rep.Stage("verify")
	defer stage.Fail() // of no effect after Done
	stage.Detail("%s", filepath.Base(img.Tarball))
	if err := sums.Verify(ctx, from, filepath.Base(img.Tarball)); err != nil {
		return manifest, err
	}
	stage.Done("%s", filepath.Base(img.Tarball))

	var disk syscall.Statfs_t
	if err := syscall.Statfs(ContainerDir, &disk); err != nil {
		return manifest, err
	}
	if free := int64(disk.Bavail) * disk.Bsize; free < manifest.Tar.Size+manifest.Tar.Size/10 {
		return manifest, fmt.Errorf("%s has %d MiB free, the image needs %d MiB: free some space", ContainerDir, free/mib, (manifest.Tar.Size+manifest.Tar.Size/10)/mib)
	}
	// A leading dot, as importd does it for what is not finished.
	partial := filepath.Join(ContainerDir, "."+filepath.Base(target)+".partial")
	if err := os.RemoveAll(partial); err != nil { // of an install that was killed
		return manifest, err
	}
	defer os.RemoveAll(partial)

	stage = in.rep.Stage("extract")
	defer stage.Fail()
	stage.Total(manifest.Tar.Size)
	tarball, err := os.Open(img.Tarball)
	if err != nil {
		return manifest, err
	}
	defer tarball.Close()
	if err := os.Mkdir(partial, 0o755); err != nil {
		return manifest, err
	}
	root, err := os.Open(partial)
	if err != nil {
		return manifest, err
	}
	defer root.Close()
	summary, err := archive.Unpack(ctx, tarball, partial, archive.UnpackOptions{Progress: stage.Set})
	if err != nil {
		return manifest, fmt.Errorf("extracting %s: %w", img.Tarball, err)
	}
	if summary.TarSHA256 != manifest.Tar.SHA256 {
		return manifest, fmt.Errorf("%s does not have the contents its manifest names: build the image again", img.Tarball)
	}
	if err := keepManifest(img.Manifest, target); err != nil {
		return manifest, err
	}
	// The name must not be on the disk before the contents, if the power fails.
	if err := unix.Syncfs(int(root.Fd())); err != nil {
		return manifest, fmt.Errorf("writing %s to the disk: %w", target, err)
	}
	if err := os.Rename(partial, target); err != nil {
		return manifest, err
	}
	stage.Done("%s", target)
	in.changed("extracted %s", target)
	return manifest, nil
}

// roomForCache fails if there is no space for a cache that is not there yet.
func roomForCache(s spec.Spec) error {
	if info, err := os.Stat(cacheFile(s.Name)); s.Cache == 0 || err == nil && info.Size() == int64(s.Cache) {
		return nil
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(ContainerDir, &disk); err != nil {
		return err
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < uint64(s.Cache) {
		return fmt.Errorf("%s has %d MiB free, and cache is %s in the spec: free some space, or lower it", ContainerDir, free/mib, s.Cache)
	}
	return nil
}

// canWait fails for an installed image of before there was a warm start.
func canWait(m image.Manifest) error {
	text, err := os.ReadFile(filepath.Join(ContainerDir, m.Name+"_"+m.Version, image.LibDir, "entrypoint"))
	if err != nil {
		return err
	}
	if !bytes.Contains(text, []byte("LISTEN_FDS")) {
		return fmt.Errorf("the containers of version %s of %s can't wait for a connection: build another version, or leave start = \"warm\" out of the spec", m.Version, m.Name)
	}
	return nil
}

// keepManifest copies a manifest to where the tree's is.
func keepManifest(manifest, tree string) error {
	text, err := os.ReadFile(manifest)
	if err != nil {
		return err
	}
	return atomicfile.Write(tree+".manifest.json", text, 0o644)
}
