package units

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	debversion "github.com/knqyf263/go-deb-version"

	"github.com/google/renameio/v2"

	"ephemeral-builder/image"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/spec"
)

// Rollback gives new connections the newest image on this host that is older than the one they
// get now, and returns the versions of both. Units and spec stay as they are. With drain it returns
// when no container has another image than that.
func Rollback(ctx context.Context, rep *progress.Reporter, s spec.Spec, drain bool) (from, to string, err error) {
	if os.Geteuid() != 0 {
		return "", "", errors.New("rolling back needs root: run it with sudo")
	}
	from, to, err = rollback(ctx, s)
	if err == nil && drain {
		err = waitForOthers(ctx, rep, s.Name, to)
	}
	return from, to, err
}

func rollback(ctx context.Context, s spec.Spec) (from, to string, err error) {
	manager, err := connect(ctx)
	if err != nil {
		return "", "", err
	}
	defer manager.close()
	unlock, err := dirlock.Lock(ctx, ContainerDir)
	if err != nil {
		return "", "", err
	}
	defer unlock()
	versions, from, err := Versions(s.Name)
	if errors.Is(err, os.ErrNotExist) {
		return "", "", fmt.Errorf("%s is not installed on this host: run first: %s: %w", s.Name, command.Self("install"), err)
	} else if err != nil {
		return "", "", err
	}
	// Those that an update found not to serve lead nowhere.
	versions = slices.DeleteFunc(versions, func(version string) bool { return Refused(s.Name, version) })
	if to, err = before(versions, from); err != nil {
		return "", "", err
	}
	tree := s.Name + "_" + to
	manifest, err := image.ReadManifest(filepath.Join(ContainerDir, tree+".manifest.json"))
	if err != nil {
		return "", "", err
	}
	if err := fits(s, manifest); err != nil {
		return "", "", err
	}
	if err := renameio.Symlink(tree, filepath.Join(ContainerDir, s.Name)); err != nil {
		return "", "", err
	}
	// Those that wait have the other one.
	return from, to, manager.reloadActive(ctx, warmUnit(s.Name))
}

// before is the newest of the versions that are older than one of them.
func before(versions []string, current string) (string, error) {
	now, err := debversion.NewVersion(current)
	if err != nil {
		return "", fmt.Errorf("version %s can't be compared: use install with -version: %w", current, err)
	}
	var older []string
	for _, version := range versions {
		if v, err := debversion.NewVersion(version); err == nil && v.LessThan(now) {
			older = append(older, "_"+version)
		}
	}
	newest, err := image.Newest(older)
	if err == nil && newest == "" {
		err = fmt.Errorf("no version before %s is on this host: install one with: %s -version=VERSION", current, command.Self("install"))
	}
	return strings.TrimPrefix(newest, "_"), err
}

// fits fails if an image can't do what a spec asks of its containers.
func fits(s spec.Spec, m image.Manifest) error {
	if s.Root == spec.RootSudo && m.Spec.Root != spec.RootSudo {
		return fmt.Errorf("version %s of %s was built without sudo: build one with root = \"sudo\" in the spec", m.Version, m.Name)
	}
	if s.Start == spec.StartWarm {
		return canWait(m)
	}
	return nil
}
