package spec

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
)

var (
	gitFolderForm = regexp.MustCompile(`^/[A-Za-z0-9._/-]*$`)
	nameForm      = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	suiteForm     = regexp.MustCompile(`^[a-z][a-z0-9.-]*$`)
	packageForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`) // Debian Policy 5.6.1
	setuidForm    = regexp.MustCompile(`^(/[^/[:space:][:cntrl:]*?\[\]]+)+$`)
	// It ends up in a sources.list line and in arguments, where blanks, commas, brackets
	// and quotes mean something. No "@": a password would be published with the image.
	mirrorForm = regexp.MustCompile(`^(https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?(/[A-Za-z0-9._~%+/-]*)?|file:(//)?/[A-Za-z0-9._~%+/-]+)$`)
)

const (
	nameMax   = 64 - len("-65535") // a container's host name is NAME-PORT: HOST_NAME_MAX in limits.h
	memoryMin = 32 << 20
	homeMin   = 1 << 20
	diskMin   = 16 << 20
	tmpMin    = 1 << 20
	tasksMin  = 8

	// Debian Policy 9.2.2: dynamically allocated user accounts.
	idMin, idMax = 1000, 59999

	listenForm    = "not an IP address with a port from 1 to 65535: use 127.0.0.1:24 or [::1]:24"
	urlForm       = "use http://HOST/PATH, https://HOST/PATH or file:///PATH, without blanks, commas, user name or password"
	needsOpenSSH  = "every container runs sshd: add openssh-server"
	opensshServer = "openssh-server"
	sudo          = "sudo"
)

// Validate tells whether s describes a builder that can work: its error joins one
// error for each problem. What [Load] and [Parse] return is valid.
func (s Spec) Validate() error { return join(s.problems()) }

func (s Spec) problems() []problem {
	var found []problem
	report := func(key, format string, args ...any) {
		found = append(found, problem{key: key, text: fmt.Sprintf(format, args...)})
	}

	switch {
	case !nameForm.MatchString(s.Name):
		report("name", "name %q: use lower-case letters, digits and single hyphens, a letter first and no hyphen last", s.Name)
	case len(s.Name) > nameMax:
		report("name", "name has %d bytes: use at most %d, as NAME-PORT is a host name, which ends at 64", len(s.Name), nameMax)
	case slices.Contains([]string{"system", "user", "machine", "init"}, s.Name):
		report("name", "name %q: systemd has units of its own of this name: use another", s.Name)
	}
	if !suiteForm.MatchString(s.Suite) {
		report("suite", "suite %q: use a Debian suite or codename, such as stable or bookworm", s.Suite)
	}
	if s.Mirror != "" && !mirrorForm.MatchString(s.Mirror) {
		// The value stays out of the message: it may hold a password.
		report("mirror", "mirror is no plain URL: %s", urlForm)
	}
	if s.Arch != "" && s.Arch != "amd64" && s.Arch != "arm64" {
		report("arch", "arch %q: use amd64, arm64, or nothing for the machine's own", s.Arch)
	}

	seen := map[string]bool{}
	for i, name := range s.Packages {
		key := fmt.Sprintf("packages[%d]", i)
		switch {
		case !packageForm.MatchString(name):
			report(key, "packages: %q is no Debian package name: use a to z, 0 to 9, +, - and . only, two at least, a letter or digit first", name)
		case seen[name]:
			report(key, "packages: %q is listed twice: remove one", name)
		}
		seen[name] = true
	}
	if len(s.Packages) == 0 {
		report("packages", "packages is empty: %s", needsOpenSSH)
	} else if !seen[opensshServer] {
		report("packages", "packages: %s", needsOpenSSH)
	}
	if s.Root == RootSudo && !seen[sudo] {
		report("packages", `packages: root = "sudo" needs it: add sudo`)
	}
	found = append(found, sourceProblems(s.Sources)...)
	if s.Files != "" {
		if text := pathProblem(s.Files); text != "" {
			report("files", "files %s", text)
		}
	}
	for i, name := range s.Hooks {
		key := fmt.Sprintf("hooks[%d]", i)
		if text := pathProblem(name); text != "" {
			report(key, "hooks: %s", text)
		} else if slices.Index(s.Hooks, name) < i {
			report(key, "hooks: %q is listed twice: remove one", name)
		}
	}
	for i, name := range s.Setuid {
		key := fmt.Sprintf("setuid[%d]", i)
		_, isMerged := merged(strings.TrimPrefix(name, "/"))
		switch {
		case !setuidForm.MatchString(name) || path.Clean(name) != name:
			report(key, "setuid: %q: use the absolute path of one file, without patterns", name)
		case isMerged:
			report(key, "setuid: %q is behind a link: use %q", name, "/usr"+name)
		case slices.Index(s.Setuid, name) < i:
			report(key, "setuid: %q is listed twice: remove one", name)
		}
	}
	if s.Concurrency < 1 || s.Concurrency > 1000 {
		report("concurrency", "concurrency is %d: use 1 to 1000", s.Concurrency)
	}

	if s.Start != StartOnDemand && s.Start != StartWarm {
		report("start", "start %q: use on-demand or warm", s.Start)
	}

	const noEffect = `%s is of no effect with network = %q: leave it out, or use network = "private"`
	switch s.Network {
	case NetworkPrivate:
	case NetworkHost, NetworkNone:
		if len(s.Allow) > 0 {
			report("allow", noEffect, "allow", s.Network)
		}
		if s.Resolver.IsValid() {
			report("resolver", noEffect, "resolver", s.Network)
		}
	default:
		report("network", "network %q: use private, host or none", s.Network)
	}
	allowed := map[Destination]bool{}
	for i, text := range s.Allow {
		key := fmt.Sprintf("allow[%d]", i)
		d, err := ParseDestination(text)
		switch {
		case err != nil:
			report(key, "allow: %v", err)
		case allowed[d]:
			report(key, "allow: %q is listed twice: remove one", text)
		}
		allowed[d] = true
	}
	if s.Resolver.IsValid() {
		if text := addrProblem(s.Resolver); text != "" {
			report("resolver", "resolver %q %s", s.Resolver, text)
		}
	}
	if s.Root != RootReadOnly && s.Root != RootSudo {
		report("root", "root %q: use read-only or sudo", s.Root)
	}
	if s.Home != HomeMemory && s.Home != HomeDisk {
		report("home", "home %q: use memory or disk", s.Home)
	}
	if s.Cache != 0 && s.Cache < diskMin {
		report("cache", "cache is %s: use 16M or more, an ext4 file system has to fit, or leave it out for none", s.Cache)
	}
	if s.GitMirror != "" && !gitFolderForm.MatchString(s.GitMirror) {
		report("git_mirror", "git_mirror %q: use an absolute path of letters, digits and -._/", s.GitMirror)
	}

	for key, id := range map[string]int{"user.uid": s.User.UID, "user.gid": s.User.GID} {
		if id < idMin || id > idMax {
			report(key, "%s is %d: use %d to %d, the range Debian keeps for ordinary users", key, id, idMin, idMax)
		}
	}

	found = append(found, s.SSH.problems()...)
	if len(s.Canaries) > 0 && s.SSH.Agent == 0 {
		report("canaries", "canaries: without ssh.agent nobody can ask them: set it, to the same port on all hosts")
	}
	for i, addr := range s.Canaries {
		if addr.IsValid() && slices.Index(s.Canaries, addr) < i {
			report(fmt.Sprintf("canaries[%d]", i), "canaries: %q is listed twice: remove one", addr)
		}
	}

	l := s.Limits
	if l.CPUQuota < 0 || l.CPUQuota > 1_000_000 {
		report("limits.cpu_quota", "limits.cpu_quota is %s: use 1%% to 1000000%% of one core", l.CPUQuota)
	}
	if l.MemoryHigh != 0 && l.MemoryHigh < memoryMin {
		report("limits.memory_high", "limits.memory_high is %s: use 32M or more, sshd and a shell have to fit", l.MemoryHigh)
	}
	if l.MemoryMax != 0 && l.MemoryMax < memoryMin {
		report("limits.memory_max", "limits.memory_max is %s: use 32M or more, sshd and a shell have to fit", l.MemoryMax)
	}
	if l.MemoryMax != 0 && l.MemoryHigh > l.MemoryMax {
		report("limits.memory_high", "limits.memory_high is %s, more than limits.memory_max, %s: use at most as much", l.MemoryHigh, l.MemoryMax)
	}
	if l.TasksMax != 0 && l.TasksMax < tasksMin {
		report("limits.tasks_max", "limits.tasks_max is %d: use %d or more, sshd itself needs some", l.TasksMax, tasksMin)
	}
	if l.TmpSize != 0 && l.TmpSize < tmpMin {
		report("limits.tmp_size", "limits.tmp_size is %s: use 1M or more, programs expect to write there", l.TmpSize)
	}
	if l.MemoryMax != 0 && l.TmpSize >= l.MemoryMax {
		report("limits.tmp_size", "limits.tmp_size is %s, not less than limits.memory_max, %s: use less: /tmp is memory, and a full one must be ENOSPC, not the OOM killer", l.TmpSize, l.MemoryMax)
	}
	onDisk := s.Home == HomeDisk
	if onDisk && l.HomeSize != 0 && l.HomeSize < diskMin {
		report("limits.home_size", "limits.home_size is %s: use 16M or more, an ext4 file system has to fit", l.HomeSize)
	}
	if !onDisk && l.HomeSize != 0 && l.HomeSize < homeMin {
		report("limits.home_size", "limits.home_size is %s: use 1M or more, the template is copied into it", l.HomeSize)
	}
	if !onDisk && l.MemoryMax != 0 && l.HomeSize >= l.MemoryMax {
		report("limits.home_size", "limits.home_size is %s, not less than limits.memory_max, %s: use less: the home is memory, and a full home must be ENOSPC, not the OOM killer", l.HomeSize, l.MemoryMax)
	}
	if !l.StartTimeout.valid() {
		report("limits.start_timeout", "limits.start_timeout is %s: use whole seconds above zero", l.StartTimeout)
	}
	if !l.Lifetime.valid() {
		report("limits.lifetime", "limits.lifetime is %s: use whole seconds above zero", l.Lifetime)
	}
	return found
}

func (s SSH) problems() (found []problem) {
	report := func(key, format string, args ...any) {
		found = append(found, problem{key: "ssh." + key, text: "ssh." + key + " " + fmt.Sprintf(format, args...)})
	}
	addr := s.Listen.Addr()
	switch {
	case !addr.IsValid() || s.Listen.Port() == 0:
		report("listen", "%q: %s", s.Listen, listenForm)
	case addr.Is4In6() || addr.Zone() != "" || addr.IsMulticast():
		report("listen", "%q: use a plain address of this host, such as 127.0.0.1 or [::1]", s.Listen)
	case !addr.IsLoopback() && len(s.From) == 0:
		report("listen", `%q: jobs' sshd would be reachable for everybody: name in ssh.from who may connect, or use 127.0.0.1 or [::1]`, s.Listen)
	case addr.IsLoopback() && len(s.From) > 0:
		report("from", "is of no effect, as ssh.listen is %s: leave it out, or listen on another address", s.Listen)
	}
	for i, prefix := range s.From {
		switch {
		case !prefix.IsValid(): // it could not be read
		case prefix.Masked() != prefix:
			report("from", "%q: use the network itself, %q, or one address without a slash", prefix, prefix.Masked())
		case prefix.Addr().Is4() != addr.Is4() && addr.IsValid() && addr != netip.IPv6Unspecified():
			report("from", "%q can't connect to %s: use addresses of the same family, or listen on [::]", prefix, s.Listen)
		case slices.Index(s.From, prefix) < i:
			report("from", "%q is listed twice: remove one", prefix)
		}
	}
	if s.Rate != 0 && (s.Rate < 1 || s.Rate > 10000) {
		report("rate", "is %d: use 1 to 10000 connections in a second", s.Rate)
	}
	if s.Rate != 0 && len(s.From) == 0 {
		report("rate", "is of no effect without ssh.from: leave it out")
	}
	if s.Agent != 0 && (s.Agent < 1 || s.Agent > 65535 || s.Agent == int(s.Listen.Port())) {
		report("agent", "is %d: use another port than ssh.listen, from 1 to 65535", s.Agent)
	}
	return found
}
