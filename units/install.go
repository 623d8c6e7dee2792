package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"ephemeral-builder/image"
	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/image/prereq"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/source"
	"ephemeral-builder/image/spec"
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
		manifest := tree + ".manifest.json"
		there := func(path string) bool { _, err := os.Stat(path); return err == nil }
		if len(built) == 0 && there(tree) && there(manifest) {
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
