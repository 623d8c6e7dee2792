package spec

import (
	"net/netip"
	"time"
)

// Default is the builder that is described by an empty file.
func Default() Spec {
	return Spec{
		Name:  "ephemeral-builder",
		Suite: "stable",
		Packages: []string{
			"dbus", "systemd-container", "openssh-server", "build-essential",
			"git", "composer", "rsync", "wget", "curl",
		},
		Concurrency: 4,
		Start:       StartOnDemand,
		Network:     NetworkPrivate,
		Root:        RootReadOnly,
		Home:        HomeMemory,
		User:        User{UID: 9000, GID: 9000},
		SSH:         SSH{Listen: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 24)},
		Limits: Limits{
			StartTimeout: Duration(30 * time.Second),
			Lifetime:     Duration(2 * time.Hour),
		},
	}
}
