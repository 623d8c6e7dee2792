// Package spec is the declarative description of one builder: what its image holds,
// who runs in it, where it listens and what one job may use. [Load] reads it from a
// TOML file, ephemeral-builder.toml; without a file, [Default] is a working builder.
//
// A [Spec] is read once and passed down. Its JSON form, with the same keys as the
// file, is part of an image's manifest. What the spec only refers to, such as files for
// the image, is its [Inputs].
package spec

import "net/netip"

// Spec describes one builder. The keys of the file are those in the toml tags; a key
// that the file leaves out keeps the value it has in [Default].
type Spec struct {
	// Name is the stem of image, unit and machine names: lower-case letters, digits
	// and single hyphens, a letter first and no hyphen last. At most 58 bytes, because
	// a container is called NAME-PORT and a host name ends at 64. It must not be
	// system, user, machine or init, as systemd has slices and scopes of these names.
	Name string `toml:"name" json:"name"`

	// Suite is the Debian suite or codename that the image is made from, such as
	// stable or bookworm.
	Suite string `toml:"suite" json:"suite"`

	// Mirror is the http, https or file URL that packages come from. Empty means the
	// host's own apt configuration, or else debootstrap's default. It is published
	// with the image, so that it can't carry a user name or a password.
	Mirror string `toml:"mirror" json:"mirror"`

	// Arch is Debian's name of the architecture, amd64 or arm64. Empty means that of the
	// machine that builds.
	Arch string `toml:"arch" json:"arch,omitempty"`

	// Packages are the Debian packages in the image beyond the base system, by name
	// only (Debian Policy 5.6.1), each once. A list in the file replaces the default
	// one. openssh-server must be among them, and sudo if Root is RootSudo.
	Packages []string `toml:"packages" json:"packages"`

	// Sources are where packages may come from besides the mirror, in the file's order.
	Sources []Source `toml:"sources" json:"sources,omitempty"`

	// Files is a folder, relative to the spec's own, that is laid over the image's root.
	// [Inputs.WriteFiles] says what may be in it. Empty means none.
	Files string `toml:"files" json:"files,omitempty"`

	// Hooks are scripts, relative to the spec's folder, that run as root in the chroot of
	// the image, in this order and without a network. Each begins with "#!".
	Hooks []string `toml:"hooks" json:"hooks,omitempty"`

	// Setuid are absolute paths of files in the image that may have a setuid or setgid
	// bit or capabilities, besides those that Debian's own packages bring.
	Setuid []string `toml:"setuid" json:"setuid,omitempty"`

	// Concurrency is how many containers may run at once, 1 to 1000.
	Concurrency int `toml:"concurrency" json:"concurrency"`

	// Start is when a container starts.
	Start Start `toml:"start" json:"start"`

	// Network is what a job can reach.
	Network Network `toml:"network" json:"network"`

	// Allow are destinations that a job may reach although they are the host's own, private
	// or link-local, such as gitlab.example.com:443, 10.0.0.0/24:5432 or [fd00::5]:53/udp,
	// each once. [ParseDestination] says what they may be. Only for NetworkPrivate.
	Allow []string `toml:"allow" json:"allow,omitempty"`

	// Resolver is the DNS server that containers ask, which must not be a loopback address.
	// The zero Addr (in the file: an empty string, or no such key) means those of the host.
	// Only for NetworkPrivate.
	Resolver netip.Addr `toml:"resolver" json:"resolver,omitzero"`

	// Root is what a job may do to the root of its container.
	Root Root `toml:"root" json:"root"`

	// Home is where the home lies.
	Home Home `toml:"home" json:"home"`

	// Cache is the size of what jobs hand on to each other, in a file on the host's disk that is
	// /home/builder/cache in each container: 16M or more, or zero for none. Whoever can log in can
	// read and change all of it.
	Cache Size `toml:"cache" json:"cache,omitzero"`

	// GitMirror is a folder on the host with bare repositories, NAME.git or GROUP/NAME.git, which
	// jobs can read: what is in them they need not fetch. An absolute path; none if empty.
	GitMirror string `toml:"git_mirror" json:"git_mirror,omitempty"`

	// Canaries are those of a fleet's hosts that install a published image before all others:
	// addresses at which each has its SSH.Agent, on the same port as this one. A host does not
	// update itself before they serve with the image.
	Canaries []netip.Addr `toml:"canaries" json:"canaries,omitempty"`

	User   User   `toml:"user" json:"user"`
	SSH    SSH    `toml:"ssh" json:"ssh"`
	Limits Limits `toml:"limits" json:"limits"`

	origin *origin
}

// origin is where a spec was read. It stays out of the manifest, which must not depend
// on the machine. A spec that was not read from a file has none.
type origin struct {
	file  string         // as [Parse] got it, for messages
	dir   string         // the file's folder, absolute: what paths in the spec are relative to
	lines map[string]int // see keyLines
}

// place gives problems the position of their keys. What is missing from a table has that
// of the table.
func (o *origin) place(problems []problem) []problem {
	if o == nil {
		return problems
	}
	for i := range problems {
		p := &problems[i]
		p.file = o.file
		for key := p.key; key != "" && p.line == 0; key, _ = split(key) {
			p.line = o.lines[key]
		}
	}
	return problems
}

// Start is one of the constants below.
type Start string

const (
	// StartOnDemand starts a container for each connection. One beyond Concurrency is refused.
	StartOnDemand Start = "on-demand"

	// StartWarm keeps Concurrency containers, of which each waits for one connection. Those
	// beyond that wait for a container.
	StartWarm Start = "warm"
)

// Network is one of the constants below.
type Network string

const (
	// NetworkPrivate is a network namespace for each container, with a way out by NAT to
	// public addresses, to the resolver and to what Spec.Allow names.
	NetworkPrivate Network = "private"

	// NetworkHost is the host's network, with all that listens on its localhost.
	NetworkHost Network = "host"

	// NetworkNone is a network namespace with nothing but its own loopback.
	NetworkNone Network = "none"
)

// Root is one of the constants below.
type Root string

const (
	// RootReadOnly is a root that nobody can write to.
	RootReadOnly Root = "read-only"

	// RootSudo lets jobs become root of their own container with sudo, on a writable root
	// that is thrown away with it. [Parse] adds sudo to Spec.Packages.
	RootSudo Root = "sudo"
)

// Home is one of the constants below.
type Home string

const (
	// HomeMemory is a tmpfs.
	HomeMemory Home = "memory"

	// HomeDisk is a file system of Limits.HomeSize in a file on the host's disk, for jobs
	// that are larger than memory. What they write to the root with RootSudo is there too.
	HomeDisk Home = "disk"
)

// User is the builder, the unprivileged user that jobs run as, by its numbers inside
// the container. Both are 1000 to 59999, Debian's range for ordinary users (Debian
// Policy 9.2.2).
type User struct {
	UID int `toml:"uid" json:"uid"`
	GID int `toml:"gid" json:"gid"`
}

// SSH is how jobs get in.
type SSH struct {
	// Listen is where the host accepts connections: an IP address and a port, such as
	// 127.0.0.1:24 or [::1]:24. 0.0.0.0 and [::] are all addresses of the host.
	Listen netip.AddrPort `toml:"listen" json:"listen"`

	// From are the addresses that may connect, if Listen is no loopback address. Addresses of the
	// host itself always may.
	From []netip.Prefix `toml:"from" json:"from,omitempty"`

	// Rate is how many connections in a second each of From may begin, 1 to 10000; zero is
	// [DefaultRate]. The kernel drops what is more, so that the client's tries again: tcp(7).
	Rate int `toml:"rate" json:"rate,omitempty"`

	// Agent is the port at which the host tells balancers how it is, in the words of HAProxy's
	// agent-check, on the address of Listen and for the same clients. Zero means none.
	Agent int `toml:"agent" json:"agent,omitempty"`
}

// DefaultRate is some twice of what a host of two cores can start.
const DefaultRate = 50

// Local is where a client on the host itself connects to.
func (s SSH) Local() netip.AddrPort {
	addr := s.Listen.Addr()
	if addr.IsUnspecified() {
		addr = netip.IPv6Loopback()
		if s.Listen.Addr().Is4() {
			addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
	}
	return netip.AddrPortFrom(addr, s.Listen.Port())
}

// Limits are what one container may use. Zero (in the file: an empty string, a 0, or
// no such key) means a fair share of the host, computed when the image is installed.
type Limits struct {
	// CPUQuota is CPU time in per cent of one core, 1% to 1000000%: CPUQuota= in
	// systemd.resource-control(5).
	CPUQuota Percent `toml:"cpu_quota" json:"cpu_quota"`

	// MemoryHigh is where the kernel begins to slow the container down and to reclaim
	// its memory: MemoryHigh= in systemd.resource-control(5). At least 32M and at most
	// MemoryMax.
	MemoryHigh Size `toml:"memory_high" json:"memory_high"`

	// MemoryMax is where the OOM killer comes: MemoryMax= in
	// systemd.resource-control(5). At least 32M.
	MemoryMax Size `toml:"memory_max" json:"memory_max"`

	// TasksMax is how many processes and threads there may be, at least 8, as sshd and
	// the job's shell count too: TasksMax= in systemd.resource-control(5).
	TasksMax int `toml:"tasks_max" json:"tasks_max"`

	// HomeSize is the size of the home, and of what a job writes to the root with RootSudo.
	// With HomeMemory it is at least 1M, and less than MemoryMax, as what it holds counts
	// as the container's memory. With HomeDisk it is at least 16M, for ext4 to fit.
	HomeSize Size `toml:"home_size" json:"home_size"`

	// TmpSize is that of /tmp and that of /dev/shm, each a tmpfs whatever Home is: at least
	// 1M, and less than MemoryMax.
	TmpSize Size `toml:"tmp_size" json:"tmp_size"`

	// StartTimeout is how long a container may take until it is up. Never zero.
	StartTimeout Duration `toml:"start_timeout" json:"start_timeout"`

	// Lifetime is how long a job may take before its container is ended. Never zero.
	Lifetime Duration `toml:"lifetime" json:"lifetime"`
}
