package units

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/image/sysupdate"
)

// Uninstalled is the outcome of [Uninstall].
type Uninstalled struct {
	Removed []string // paths
	Kept    []string // the keys, as runners and known_hosts files elsewhere refer to them
}

// Uninstall ends the builder's running containers and takes from this host all that
// [Install] put there but the keys. What is gone already is no error.
func Uninstall(ctx context.Context, rep *progress.Reporter, s spec.Spec) (Uninstalled, error) {
	var out Uninstalled
	if os.Geteuid() != 0 {
		return out, errors.New("uninstalling needs root: run it with sudo")
	}
	manager, err := connect(ctx)
	if err != nil {
		return out, err
	}
	defer manager.close()
	if err := os.MkdirAll(ContainerDir, 0o755); err != nil {
		return out, err
	}
	unlock, err := dirlock.Lock(ctx, ContainerDir)
	if err != nil {
		return out, err
	}
	defer unlock()

	if err := checkOwner(s.Name); err != nil {
		return out, err
	}
	stage := rep.Stage("stop")
	defer stage.Fail() // of no effect after Done
	socket := s.Name + ".socket"
	unitFile := filepath.Join(UnitDir, socket)
	// Also if the unit's file is gone: a listening socket can outlive it.
	if err := manager.stop(ctx, socket); err != nil {
		return out, err
	}
	if _, err := os.Lstat(unitFile); err == nil {
		if _, err := manager.conn.DisableUnitFilesContext(ctx, []string{socket}, false); err != nil {
			return out, fmt.Errorf("systemd does not disable %s: %w", socket, err)
		}
	}
	for _, unit := range alsoEnabled(s.Name) {
		if err := manager.disable(ctx, unit); err != nil {
			return out, err
		}
	}
	// Or the upkeep would let the trial go on.
	if err := os.Remove(trialFile(s.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return out, err
	}
	if err := manager.stop(ctx, s.Name+"-update.service"); err != nil {
		return out, err
	}
	// The slice takes all containers with it; the instances alone would leave it behind.
	instances, err := manager.instances(ctx, s.Name+"@*.service")
	if err != nil {
		return out, err
	}
	for _, unit := range append(instances, sliceUnit(s.Name), acceptedSocket(s.Name), filtersUnit(s.Name), slotsUnit(s.Name)) {
		stage.Detail("%s", unit)
		if err := manager.stop(ctx, unit); err != nil {
			return out, err
		}
	}
	stage.Done("%d running containers ended", len(instances))

	stage = rep.Stage("remove")
	defer stage.Fail()
	paths := []string{filepath.Join(MetricsDir, "ephemeral-builder-"+s.Name+".prom"), cacheFile(s.Name), cacheFile(s.Name) + ".partial", filepath.Join(CacheDir, s.Name), filepath.Join(LibDir, s.Name), filepath.Join(DownloadDir, s.Name), unmanagedFile(s.Name), KeysOf(s.Name).Drained, installedPath(s.Name), trialFile(s.Name), trialFile(s.Name) + ".new"}
	for _, unit := range slices.Sorted(maps.Values(unitNames(s.Name))) {
		paths = append(paths, filepath.Join(UnitDir, unit))
	}
	// A NAME has no underscore, so that these are all of this builder and nothing else.
	for _, pattern := range []string{
		filepath.Join(ContainerDir, s.Name), filepath.Join(ContainerDir, s.Name+"_*"), filepath.Join(ContainerDir, "."+s.Name+"_*.partial"), filepath.Join(ContainerDir, "."+s.Name+"_*.removed"), // trees, and homes on the disk
		filepath.Join(ContainerDir, ".#sysupdate"+s.Name+"_*"), // of a sysupdate that was killed
		filepath.Join(sysupdate.Dir(s.Name), s.Name+"*.transfer"),
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return out, err
		}
		paths = append(paths, found...)
	}
	for _, path := range paths {
		stage.Detail("%s", path)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := remove(path); err != nil {
			return out, err
		}
		out.Removed = append(out.Removed, path)
	}
	_ = os.Remove(CacheDir)              // likewise
	_ = os.Remove(LibDir)                // unless another builder has its scripts there
	_ = os.Remove(sysupdate.Dir(s.Name)) // unless an administrator has files there
	if err := manager.conn.ReloadContext(ctx); err != nil {
		return out, fmt.Errorf("systemd does not reload its units: %w", err)
	}
	stage.Done("%d paths", len(out.Removed))
	if keys, err := filepath.Glob(filepath.Join(ConfigDir, s.Name, "*")); err == nil {
		out.Kept = keys
	}
	return out, nil
}

// remove removes a file or a tree. A tree loses its name first: killed half-way, what is
// left of it must not pass for an installed image.
func remove(path string) error {
	if info, err := os.Lstat(path); err == nil && info.IsDir() && !strings.HasPrefix(info.Name(), ".") {
		partial := filepath.Join(filepath.Dir(path), "."+info.Name()+".partial")
		if err := os.RemoveAll(partial); err != nil {
			return err
		}
		if err := os.Rename(path, partial); err != nil {
			return err
		}
		path = partial
	}
	return os.RemoveAll(path)
}
