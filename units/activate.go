package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"

	"ephemeral-builder/image"
	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/spec"
)

// activation switches a builder to an image and its units, a step after the other, each with
// what undoes it.
type activation struct {
	*installation
	spec spec.Spec
	undo []func() error

	restart   bool            // the socket has changed
	unmanaged bool            // and what networkd leaves alone
	beside    map[string]bool // units of alsoEnabled, and whether they have changed
}

// activate switches to the image and the units, and back to what was before if the
// socket does not start, or ctx ends.
func (in *installation) activate(ctx context.Context, s spec.Spec, manifest image.Manifest, units []File, knownHosts []byte) (err error) {
	socket := s.Name + ".socket"
	wasActive, err := in.manager.active(ctx, socket)
	if err != nil {
		return err
	}
	// A killed install may have left new files that systemd has not read.
	stale, err := in.manager.needsReload(ctx, socket)
	if err != nil {
		return err
	}
	a := activation{installation: in, spec: s, restart: stale, beside: map[string]bool{}}
	defer func() {
		if err != nil && len(a.undo) > 0 {
			// Also after Ctrl-C: the host must serve as before.
			err = errors.Join(err, a.goBack(context.WithoutCancel(ctx), wasActive))
		}
	}()

	// While systemd knows it: what waits holds the socket, on which others will listen.
	if s.Start != spec.StartWarm {
		if err := in.manager.stop(ctx, warmUnit(s.Name)); err != nil {
			return err
		}
	}
	if err := a.remove(ctx, unused(s.Name, units)); err != nil {
		return err
	}
	if err := a.write(append(slices.Clone(units), File{in.Keys.KnownHosts, knownHosts})); err != nil {
		return err
	}
	if err := a.point(manifest); err != nil {
		return err
	}
	// Before the reload, after which systemd would take this for a change that it has not read.
	if err := a.enable(ctx); err != nil {
		return err
	}
	if a.unmanaged {
		if err := in.manager.reloadNetworkd(ctx); err != nil {
			return err
		}
	}
	if len(a.undo) > 0 || stale {
		if err := in.manager.conn.ReloadContext(ctx); err != nil {
			return fmt.Errorf("systemd does not reload its units: %w", err)
		}
		if err := in.manager.reloadActive(ctx, slotsUnit(s.Name)); err != nil {
			return err
		}
	}
	return a.start(ctx, wasActive)
}

// remove removes units that are no longer wanted.
func (a *activation) remove(ctx context.Context, paths []string) error {
	for _, path := range paths {
		if unit := filepath.Base(path); slices.Contains(alsoEnabled(a.spec.Name), unit) {
			a.undo = append(a.undo, func() error { return a.manager.enable(context.WithoutCancel(ctx), unit) })
			if err := a.manager.disable(ctx, unit); err != nil {
				return err
			}
		}
		restore, err := restorer(path)
		if err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		a.undo = append(a.undo, restore)
		a.changed("removed %s", path)
	}
	return nil
}

// write writes the files that are not there, or not so.
func (a *activation) write(files []File) error {
	for _, file := range files {
		path := file.Name
		if !filepath.IsAbs(path) {
			path = filepath.Join(UnitDir, path)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		restore, err := restorer(path)
		if err != nil {
			return err
		}
		changed, err := writeIfChanged(path, file.Text, 0o644)
		if err != nil {
			return err
		}
		if changed {
			a.undo = append(a.undo, restore)
			a.changed("wrote %s", path)
			a.restart = a.restart || file.Name == a.spec.Name+".socket"
			a.unmanaged = a.unmanaged || path == unmanagedFile(a.spec.Name)
		}
		if slices.Contains(alsoEnabled(a.spec.Name), file.Name) {
			a.beside[file.Name] = changed
		}
	}
	return nil
}

// point makes the link lead to an image: the next connection gets it.
func (a *activation) point(manifest image.Manifest) error {
	link, target := filepath.Join(ContainerDir, a.spec.Name), manifest.Name+"_"+manifest.Version
	if now, _ := os.Readlink(link); now == target {
		return nil
	}
	restore, err := restorer(link)
	if err != nil {
		return err
	}
	if err := renameio.Symlink(target, link); err != nil {
		return err
	}
	a.undo = append(a.undo, restore)
	a.changed("switched %s to %s", link, target)
	return nil
}

// enable has the socket, and what is beside it, start with the host.
func (a *activation) enable(ctx context.Context) error {
	socket := a.spec.Name + ".socket"
	if _, err := os.Lstat(filepath.Join(UnitDir, "sockets.target.wants", socket)); errors.Is(err, fs.ErrNotExist) {
		a.undo = append(a.undo, func() error {
			_, err := a.manager.conn.DisableUnitFilesContext(context.WithoutCancel(ctx), []string{socket}, false)
			return err
		})
		if _, _, err := a.manager.conn.EnableUnitFilesContext(ctx, []string{socket}, false, false); err != nil {
			return fmt.Errorf("systemd does not enable %s: %w", socket, err)
		}
		a.changed("enabled %s", socket)
	}
	for unit := range a.beside {
		if enabled, _ := filepath.Glob(filepath.Join(UnitDir, "*.wants", unit)); len(enabled) > 0 {
			continue
		}
		a.undo = append(a.undo, func() error { return a.manager.disable(context.WithoutCancel(ctx), unit) })
		if _, _, err := a.manager.conn.EnableUnitFilesContext(ctx, []string{unit}, false, false); err != nil {
			return fmt.Errorf("systemd does not enable %s: %w", unit, err)
		}
	}
	return nil
}

// start starts what does not run, and starts anew what would go on as it was.
func (a *activation) start(ctx context.Context, wasActive bool) error {
	for unit, changed := range a.beside {
		start := a.manager.start
		if changed { // it may listen elsewhere now
			start = a.manager.restart
		}
		if err := start(ctx, unit); err != nil {
			return err
		}
	}
	socket := a.spec.Name + ".socket"
	switch {
	case wasActive && a.restart:
		a.changed("restarted %s", socket)
		return a.manager.restart(ctx, socket)
	case wasActive && len(a.undo) > 0 && a.spec.Start == spec.StartWarm:
		a.changed("restarted containers that waited")
		return a.manager.restart(ctx, warmUnit(a.spec.Name))
	case !wasActive:
		a.changed("started %s", socket)
		return a.manager.start(ctx, socket)
	}
	return nil
}

// goBack undoes what was done, the last first, and brings the socket to the state it was in.
func (a *activation) goBack(ctx context.Context, wasActive bool) error {
	name := a.spec.Name
	socket := name + ".socket"
	// While its unit is still there, as above.
	errs := []error{a.manager.stop(ctx, warmUnit(name))}
	if !wasActive {
		// While its unit is still there: the start may have gone on after we stopped waiting.
		errs = append(errs, a.manager.stop(ctx, socket))
		_ = a.manager.conn.ResetFailedUnitContext(ctx, socket) // an error if it did not fail
		// Its unit knows how to take away what it made.
		running, err := a.manager.instances(ctx, name+"@*.service")
		if err == nil && len(running) == 0 {
			err = a.manager.stop(ctx, slotsUnit(name))
		}
		errs = append(errs, err)
	}
	for _, step := range slices.Backward(a.undo) {
		errs = append(errs, step())
	}
	errs = append(errs, a.manager.conn.ReloadContext(ctx), a.manager.reloadActive(ctx, slotsUnit(name)))
	if wasActive {
		_ = a.manager.conn.ResetFailedUnitContext(ctx, socket)
		errs = append(errs, a.manager.restart(ctx, socket))
	}
	if active, _ := a.manager.active(ctx, AgentSocket(name)); active { // its unit may be the one of before again
		errs = append(errs, a.manager.restart(ctx, AgentSocket(name)))
	}
	return errors.Join(errs...)
}

// unused are the paths of a builder's units on this host that are not among units.
func unused(name string, units []File) (paths []string) {
	for _, unit := range slices.Sorted(maps.Values(unitNames(name))) {
		path := filepath.Join(UnitDir, unit)
		if _, err := os.Lstat(path); err == nil && !slices.ContainsFunc(units, func(f File) bool { return f.Name == unit }) {
			paths = append(paths, path)
		}
	}
	return paths
}

// restorer remembers what is at path, a file, a symlink or nothing, and returns the
// function that brings it back.
func restorer(path string) (func() error, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return func() error { return os.Remove(path) }, nil
	} else if err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(path)
		if err != nil {
			return nil, err
		}
		return func() error { return renameio.Symlink(target, path) }, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return func() error { return atomicfile.Write(path, text, info.Mode().Perm()) }, nil
}

// writeIfChanged replaces a file atomically, unless it has this text already.
func writeIfChanged(path string, text []byte, mode fs.FileMode) (changed bool, err error) {
	now, err := os.ReadFile(path)
	if err == nil && bytes.Equal(now, text) {
		return false, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, atomicfile.Write(path, text, mode)
}
