package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"ephemeral-builder/image"
	"ephemeral-builder/image/archive"
	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/image/prereq"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/source"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/image/sums"
)

// Needs are what the units of a spec start, and what checks them.
func Needs(s spec.Spec) []prereq.Need {
	needs := []prereq.Need{
		{Program: "systemd-nspawn", Package: "systemd-container"},
		{Program: "systemd-analyze", Package: "systemd"},
		{Program: "dbus-daemon", Package: "dbus"},
		{Program: "perl", Package: "perl-base"},
		{Program: "ip", Package: "iproute2"},
		{Program: "nft", Package: "nftables"},
		{Program: "conntrack", Package: "conntrack"},
		{Program: "ssh", Package: "openssh-client"}, // with which an update tries what it has installed
	}
	if s.Home == spec.HomeDisk || s.Cache != 0 {
		needs = append(needs, prereq.Need{Program: "mkfs.ext4", Package: "e2fsprogs"})
	}
	return needs
}

// Options says what to install.
type Options struct {
	Spec    spec.Spec
	From    string // folder with the image and its SHA256SUMS, or http(s) URL of a release directory; if empty dist, or what this host has
	Keyring string // file with the publisher's key; see [source.Options]
	Version string // of the image; the newest if empty

	AutoUpdate *bool // look for new images every hour; as before if nil
	Drain      bool  // return when no container has an older image
}

// Installed is the outcome of [Install].
type Installed struct {
	Version string
	Limits  spec.Limits // of each container
	Upgrade string      // how a later version comes here; empty for an image from a folder
	Keys    Keys
	Changes []string // what was done, a line each; none if all was there already

	Warnings []string // what an administrator should know or do, a line each
}

// Install puts an image and its units on this host and starts the socket. All that can
// be checked is checked first; after that a failure brings back the units and the image
// that served before. Running containers keep the tree they started on.
//
// With o.Drain it goes on until no container has another image; ending that undoes nothing.
func Install(ctx context.Context, rep *progress.Reporter, o Options) (Installed, error) {
	done, err := install(ctx, rep, o)
	if err == nil && o.Drain {
		err = waitForOthers(ctx, rep, o.Spec.Name, done.Version)
	}
	return done, err
}

func install(ctx context.Context, rep *progress.Reporter, o Options) (Installed, error) {
	if os.Geteuid() != 0 {
		return Installed{}, errors.New("installing needs root: run it with sudo")
	}
	host, err := ThisHost(ctx)
	if err != nil {
		return Installed{}, err
	}
	limits, err := host.Limits(o.Spec)
	if err != nil {
		return Installed{}, err
	}
	arch, err := image.HostArch()
	if err != nil {
		return Installed{}, err
	}
	from, err := o.open(ctx, rep, arch.Systemd)
	if err != nil {
		return Installed{}, err
	}
	defer from.Close()

	if err := booted(); err != nil {
		return Installed{}, err
	}
	if err := prereq.Ensure(ctx, rep, Needs(o.Spec)...); err != nil {
		return Installed{}, err
	}
	manager, err := connect(ctx)
	if err != nil {
		return Installed{}, err
	}
	defer manager.close()
	if err := os.MkdirAll(ContainerDir, 0o755); err != nil {
		return Installed{}, err
	}
	unlock, err := dirlock.Lock(ctx, ContainerDir)
	if err != nil {
		return Installed{}, err
	}
	defer unlock()
	if err := checkOwner(o.Spec.Name); err != nil {
		return Installed{}, err
	}
	if err := checkPort(ctx, manager, o.Spec.Name+".socket", "ssh.listen", o.Spec.SSH.Listen); err != nil {
		return Installed{}, err
	}
	if o.Spec.SSH.Agent != 0 {
		address := netip.AddrPortFrom(o.Spec.SSH.Listen.Addr(), uint16(o.Spec.SSH.Agent))
		if err := checkPort(ctx, manager, AgentSocket(o.Spec.Name), "ssh.agent", address); err != nil {
			return Installed{}, err
		}
	}
	firstSlot, err := firstSlot(o.Spec)
	if err != nil {
		return Installed{}, err
	}
	autoUpdate := o.AutoUpdate != nil && *o.AutoUpdate
	if o.AutoUpdate == nil {
		_, err := os.Stat(filepath.Join(UnitDir, updateTimer(o.Spec.Name)))
		autoUpdate = err == nil
	}
	if autoUpdate {
		if err := canUpdate(o.Spec, from.URL); err != nil {
			return Installed{}, err
		}
	}
	files, err := Render(o.Spec, host, limits, firstSlot, autoUpdate)
	if err != nil {
		return Installed{}, err
	}
	if err := Verify(ctx, files); err != nil {
		return Installed{}, err
	}

	in := installation{rep: rep, manager: manager, Installed: Installed{Limits: limits}}
	manifest, err := in.tree(ctx, from)
	if err != nil {
		return Installed{}, err
	}
	if err := fits(o.Spec, manifest); err != nil {
		return Installed{}, err
	}
	if err := roomForCache(o.Spec); err != nil {
		return Installed{}, err
	}
	in.Version = manifest.Version
	keys, knownHosts, wrote, err := ensureKeys(o.Spec)
	if err != nil {
		return Installed{}, err
	}
	in.Keys = keys
	for _, path := range wrote {
		in.changed("wrote %s", path)
	}
	transfers, upgrade := follow(from.URL, manifest)
	if autoUpdate && from.URL != nil && len(transfers) == 0 {
		return Installed{}, fmt.Errorf("updates can't come by themselves: %s", upgrade)
	}
	in.Upgrade = upgrade
	kept, err := installedFile(o.Spec)
	if err != nil {
		return Installed{}, err
	}
	if err := in.activate(ctx, o.Spec, manifest, append(append(files, kept), transfers...), knownHosts); err != nil {
		return Installed{}, err
	}
	// Who installs by hand knows what he wants.
	for _, mark := range []string{trialFile(o.Spec.Name), refusedFile(o.Spec.Name, manifest.Version)} {
		if err := os.Remove(mark); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Installed{}, err
		}
	}
	in.Warnings = Warnings(ctx, o.Spec)
	return in.Installed, from.Forget()
}

// open finds the image. Without o.From it is in folder dist; or it is on this host, as it is where
// only the spec has changed: then it has no tarball.
func (o Options) open(ctx context.Context, rep *progress.Reporter, arch string) (*source.Source, error) {
	if o.From == "" {
		o.From = "dist"
		built, err := filepath.Glob(filepath.Join(o.From, image.Pattern(o.Spec.Name, o.Version, arch)))
		if err != nil {
			return nil, err
		}
		tree := filepath.Join(ContainerDir, o.Spec.Name)
		if o.Version != "" {
			tree += "_" + o.Version
		} else if link, err := os.Readlink(tree); err == nil {
			tree = filepath.Join(ContainerDir, link)
		}
		_, treeErr := os.Stat(tree)
		manifest := tree + ".manifest.json"
		_, err = os.Stat(manifest)
		if treeErr == nil && err == nil && len(built) == 0 {
			return &source.Source{Image: image.Image{Manifest: manifest}}, nil
		}
	}
	return source.Open(ctx, rep, source.Options{
		From: o.From, Keyring: o.Keyring, Name: o.Spec.Name, Version: o.Version, Arch: arch, Downloads: DownloadDir,
	})
}

// installation collects what one call of [Install] does.
type installation struct {
	rep     *progress.Reporter
	manager systemd
	Installed
}

func (in *installation) changed(format string, args ...any) {
	in.Changes = append(in.Changes, fmt.Sprintf(format, args...))
}

// checkOwner fails if a unit of somebody else has one of a builder's names, as "ssh" has: ours
// would take its place.
func checkOwner(name string) error {
	for _, unit := range unitNames(name) {
		for _, dir := range []string{UnitDir, "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
			path := filepath.Join(dir, unit)
			text, err := os.ReadFile(path)
			if err == nil && !bytes.Contains(text, []byte(writtenByUs)) {
				return fmt.Errorf("%s belongs to somebody else: use another name in the spec, or remove it", path)
			} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// checkPort fails if somebody else listens where a socket will, for which there is a key in the spec.
func checkPort(ctx context.Context, manager systemd, unit, key string, address netip.AddrPort) error {
	text, err := os.ReadFile(filepath.Join(UnitDir, unit))
	if err == nil && regexp.MustCompile(fmt.Sprintf(`(?m)^ListenStream=.*:%d$`, address.Port())).Match(text) {
		if active, err := manager.active(ctx, unit); active || err != nil {
			return err // it is ours, on this address or another
		}
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address.String())
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is taken by another program: set %s in the spec to a free port, or stop what this shows: ss -ltnp 'sport = %d'", address, key, address.Port())
	}
	if err != nil {
		return fmt.Errorf("can't listen on %s: set %s in the spec: %w", address, key, err)
	}
	return listener.Close()
}

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

// activate switches to the image and the units, and back to what was before if the
// socket does not start, or ctx ends.
func (in *installation) activate(ctx context.Context, s spec.Spec, manifest image.Manifest, units []File, knownHosts []byte) (err error) {
	socket := s.Name + ".socket"
	link := filepath.Join(ContainerDir, s.Name)
	wasActive, err := in.manager.active(ctx, socket)
	if err != nil {
		return err
	}
	// A killed install may have left new files that systemd has not read.
	stale, err := in.manager.needsReload(ctx, socket)
	if err != nil {
		return err
	}
	var undo []func() error
	defer func() {
		if err != nil && len(undo) > 0 {
			// Also after Ctrl-C: the host must serve as before.
			err = errors.Join(err, in.goBack(context.WithoutCancel(ctx), s.Name, wasActive, undo))
		}
	}()

	// While systemd knows it: what waits holds the socket, on which others will listen.
	if s.Start != spec.StartWarm {
		if err := in.manager.stop(ctx, warmUnit(s.Name)); err != nil {
			return err
		}
	}
	for _, path := range unused(s.Name, units) {
		if unit := filepath.Base(path); slices.Contains(alsoEnabled(s.Name), unit) {
			undo = append(undo, func() error { return in.manager.enable(context.WithoutCancel(ctx), unit) })
			if err := in.manager.disable(ctx, unit); err != nil {
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
		undo = append(undo, restore)
		in.changed("removed %s", path)
	}

	restart, unmanaged := stale, false
	beside := map[string]bool{} // units of alsoEnabled, and whether they have changed
	files := append([]File{}, units...)
	for _, file := range append(files, File{in.Keys.KnownHosts, knownHosts}) {
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
			undo = append(undo, restore)
			in.changed("wrote %s", path)
			restart = restart || file.Name == socket
			unmanaged = unmanaged || path == unmanagedFile(s.Name)
		}
		if slices.Contains(alsoEnabled(s.Name), file.Name) {
			beside[file.Name] = changed
		}
	}
	target := manifest.Name + "_" + manifest.Version
	if now, _ := os.Readlink(link); now != target {
		restore, err := restorer(link)
		if err != nil {
			return err
		}
		if err := renameio.Symlink(target, link); err != nil {
			return err
		}
		undo = append(undo, restore)
		in.changed("switched %s to %s", link, target)
	}
	if _, err := os.Lstat(filepath.Join(UnitDir, "sockets.target.wants", socket)); errors.Is(err, fs.ErrNotExist) {
		undo = append(undo, func() error {
			_, err := in.manager.conn.DisableUnitFilesContext(context.WithoutCancel(ctx), []string{socket}, false)
			return err
		})
		if _, _, err := in.manager.conn.EnableUnitFilesContext(ctx, []string{socket}, false, false); err != nil {
			return fmt.Errorf("systemd does not enable %s: %w", socket, err)
		}
		in.changed("enabled %s", socket)
	}
	// Before the reload, after which systemd would take this for a change that it has not read.
	for unit := range beside {
		if enabled, _ := filepath.Glob(filepath.Join(UnitDir, "*.wants", unit)); len(enabled) > 0 {
			continue
		}
		undo = append(undo, func() error { return in.manager.disable(context.WithoutCancel(ctx), unit) })
		if _, _, err := in.manager.conn.EnableUnitFilesContext(ctx, []string{unit}, false, false); err != nil {
			return fmt.Errorf("systemd does not enable %s: %w", unit, err)
		}
	}
	if unmanaged {
		if err := in.manager.reloadNetworkd(ctx); err != nil {
			return err
		}
	}
	if len(undo) > 0 || stale {
		if err := in.manager.conn.ReloadContext(ctx); err != nil {
			return fmt.Errorf("systemd does not reload its units: %w", err)
		}
		if err := in.manager.reloadActive(ctx, slotsUnit(s.Name)); err != nil {
			return err
		}
	}
	for unit, changed := range beside {
		start := in.manager.start
		if changed { // it may listen elsewhere now
			start = in.manager.restart
		}
		if err := start(ctx, unit); err != nil {
			return err
		}
	}
	switch {
	case wasActive && restart:
		in.changed("restarted %s", socket)
		return in.manager.restart(ctx, socket)
	case wasActive && len(undo) > 0 && s.Start == spec.StartWarm:
		in.changed("restarted containers that waited")
		return in.manager.restart(ctx, warmUnit(s.Name))
	case !wasActive:
		in.changed("started %s", socket)
		return in.manager.start(ctx, socket)
	}
	return nil
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

// goBack undoes what activate did, the last first, and brings the socket to the state it
// was in.
func (in *installation) goBack(ctx context.Context, name string, wasActive bool, undo []func() error) error {
	socket := name + ".socket"
	// While its unit is still there, as above.
	errs := []error{in.manager.stop(ctx, warmUnit(name))}
	if !wasActive {
		// While its unit is still there: the start may have gone on after we stopped waiting.
		errs = append(errs, in.manager.stop(ctx, socket))
		_ = in.manager.conn.ResetFailedUnitContext(ctx, socket) // an error if it did not fail
		// Its unit knows how to take away what it made.
		running, err := in.manager.instances(ctx, name+"@*.service")
		if err == nil && len(running) == 0 {
			err = in.manager.stop(ctx, slotsUnit(name))
		}
		errs = append(errs, err)
	}
	for _, step := range slices.Backward(undo) {
		errs = append(errs, step())
	}
	errs = append(errs, in.manager.conn.ReloadContext(ctx), in.manager.reloadActive(ctx, slotsUnit(name)))
	if wasActive {
		_ = in.manager.conn.ResetFailedUnitContext(ctx, socket)
		errs = append(errs, in.manager.restart(ctx, socket))
	}
	if active, _ := in.manager.active(ctx, AgentSocket(name)); active { // its unit may be the one of before again
		errs = append(errs, in.manager.restart(ctx, AgentSocket(name)))
	}
	return errors.Join(errs...)
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
