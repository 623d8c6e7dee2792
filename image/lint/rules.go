package lint

import (
	"archive/tar"
	"path"
	"slices"
	"strconv"
	"strings"
)

// secrets that everybody who downloads the image would share.
func (l *Linter) secrets(name string, f *file) {
	if f.is(tar.TypeDir) {
		return
	}
	dir, base := path.Split(name)
	switch {
	case below(name, "/etc/ssh") && strings.HasPrefix(base, "ssh_host_"):
		l.found(name, "remove it in a hook; the host makes one when the image is installed", "is a host key")
	case base == "authorized_keys" || base == "authorized_keys2" || below(name, "/etc/ssh/authorized_keys.d"):
		l.found(name, "remove it; the host gets the keys when the image is installed", "lets somebody in")
	case f.key,
		path.Base(dir) == ".ssh" && strings.HasPrefix(base, "id_") && !strings.HasSuffix(base, ".pub"),
		strings.Contains(dir, "/.gnupg/private-keys-v1.d/"),
		dir == "/etc/ssl/private/":
		l.found(name, "remove it in a hook, and make the job bring its own", "is a private key")
	case name == "/etc/apt/auth.conf" || below(name, "/etc/apt/auth.conf.d"):
		l.found(name, "remove it in a hook", "has apt's passwords")
	}
}

// leftovers of the build. An empty directory is none.
func (l *Linter) leftovers(name string, f *file) {
	const remedy = "remove it in a hook"
	dir, base := path.Split(name)
	for _, top := range []string{"/tmp", "/var/tmp", "/run"} {
		if below(name, top) {
			l.found(name, remedy, "is left over in %s", top)
			return
		}
	}
	if below(name, "/home/builder") {
		l.found(name, "put it into /home/builder.template", "is hidden by each container's own home")
		return
	}
	if f.is(tar.TypeDir) {
		if name == "/debootstrap" {
			l.found(name, remedy, "is left over from debootstrap")
		}
		return
	}
	for top, what := range map[string]string{
		"/var/lib/apt/lists": "an index of apt",
		"/var/cache/apt":     "a cache of apt",
		"/var/cache/man":     "a cache of man",
		"/var/log":           "a log",
		"/var/backups":       "a backup",
	} {
		if below(name, top) {
			l.found(name, remedy, "is %s", what)
		}
	}
	switch {
	case dir == "/etc/" && slices.Contains([]string{"passwd-", "shadow-", "group-", "gshadow-", "subuid-", "subgid-"}, base),
		dir == "/var/cache/debconf/" && strings.HasSuffix(base, "-old"),
		dir == "/var/lib/dpkg/" && strings.HasSuffix(base, "-old"):
		l.found(name, remedy, "is a copy of an earlier state")
	case strings.HasSuffix(base, ".dpkg-new"), strings.HasSuffix(base, ".dpkg-tmp"):
		l.found(name, "see the log of the build: a package is only half installed", "is left over from dpkg")
	case name == "/etc/.pwd.lock", name == "/var/cache/ldconfig/aux-cache":
		l.found(name, remedy, "differs with every build and is of no use")
	case name == "/etc/hostname", name == "/var/lib/dbus/machine-id", name == "/var/lib/systemd/random-seed":
		l.found(name, remedy, "belongs to one machine")
	}
}

// debian are the setuid and setgid files of Debian's base system and openssh-server in
// bookworm and trixie. Sid has no other.
var debian = []string{
	"/usr/bin/chage", "/usr/bin/chfn", "/usr/bin/chsh", "/usr/bin/expiry", "/usr/bin/gpasswd",
	"/usr/bin/mount", "/usr/bin/newgrp", "/usr/bin/passwd", "/usr/bin/ssh-agent", "/usr/bin/su",
	"/usr/bin/umount", "/usr/lib/dbus-1.0/dbus-daemon-launch-helper",
	"/usr/lib/openssh/ssh-keysign", "/usr/sbin/unix_chkpwd",
}

func (l *Linter) modes(name string, f *file) {
	const remedy = "add it to setuid in the spec, or take that away in a hook"
	allowed := slices.Contains(debian, name) || slices.Contains(l.rules.Setuid, name)
	switch {
	case !f.is(tar.TypeReg) || allowed:
	case f.mode&0o4000 != 0:
		l.found(name, remedy, "is setuid and not on the list")
	case f.mode&0o2000 != 0:
		l.found(name, remedy, "is setgid and not on the list")
	case f.caps:
		l.found(name, remedy, "has capabilities and is not on the list")
	}
	switch {
	case f.mode&0o002 == 0 || f.is(tar.TypeSymlink):
	case !f.is(tar.TypeDir):
		l.found(name, "chmod o-w in a hook", "is writable for everybody")
	case f.mode&0o1000 == 0:
		l.found(name, "chmod o-w or +t in a hook", "is writable for everybody and not sticky")
	}
}

func (l *Linter) owners(name string, f *file, a accounts) {
	if !a.users[f.uid] {
		l.found(name, "chown it in a hook, or add the user", "belongs to uid %d, which is not in /etc/passwd", f.uid)
	}
	if !a.groups[f.gid] {
		l.found(name, "chown it in a hook, or add the group", "belongs to gid %d, which is not in /etc/group", f.gid)
	}
}

// identity are the two files that must be there and empty.
func (l *Linter) identity() {
	for _, e := range []struct{ name, remedy string }{
		// machine-id(5): empty makes each container draw its own; without the file that
		// would need a writable /etc.
		{"/etc/machine-id", "empty it in a hook: `: >/etc/machine-id`"},
		// nspawn binds the host's over it: it follows a link, to nowhere in an image, and
		// can't make a missing file on a read-only root.
		{"/etc/resolv.conf", "make it an empty file in a hook: `rm -f /etc/resolv.conf; : >/etc/resolv.conf`"},
	} {
		switch f := l.files[e.name]; {
		case f == nil:
			l.found(e.name, e.remedy, "is missing")
		case f.is(tar.TypeSymlink):
			l.found(e.name, e.remedy, "is a link to %s", f.link)
		case !f.is(tar.TypeReg):
			l.found(e.name, e.remedy, "is not a file")
		case f.size > 0:
			l.found(e.name, e.remedy, "is not empty")
		}
	}
}

// passwords: a hash is a secret, and with an empty one anybody is in.
func (l *Linter) passwords() {
	const remedy = "lock the account in a hook: `usermod --password '*' NAME`"
	for _, field := range l.lines("/etc/shadow") {
		switch {
		case len(field) < 2:
		case field[1] == "":
			l.found("/etc/shadow", remedy, "lets %s in without a password", field[0])
		case !strings.ContainsAny(field[1][:1], "*!"):
			l.found("/etc/shadow", remedy, "has a password of %s", field[0])
		}
	}
}

// builder is the account that jobs run as and the template of its home.
func (l *Linter) builder() {
	const remedy = "leave the builder's account as it is in hooks"
	uid, gid := strconv.Itoa(l.rules.UID), strconv.Itoa(l.rules.GID)
	user := l.line("/etc/passwd", 7)
	switch {
	case user == nil:
		l.found("/etc/passwd", remedy, "has no user builder")
	case user[2] != uid || user[3] != gid:
		l.found("/etc/passwd", remedy, "has builder as %s:%s, the spec as %s:%s", user[2], user[3], uid, gid)
	case user[5] != "/home/builder":
		l.found("/etc/passwd", remedy, "has %q as the home of builder, not /home/builder", user[5])
	case !l.executable(user[6]):
		l.found("/etc/passwd", remedy, "has %q as the shell of builder, which is no program of the image", user[6])
	}
	if group := l.line("/etc/group", 3); group == nil || group[2] != gid {
		l.found("/etc/group", remedy, "has no group builder with gid %s", gid)
	}
	// Without PAM sshd takes an account with "!" for a locked one.
	if shadow := l.line("/etc/shadow", 2); shadow == nil || shadow[1] != "*" {
		l.found("/etc/shadow", remedy, `does not have "*" as the password of builder`)
	}

	for _, dir := range []string{"/home/builder", "/home/builder.template", "/home/builder.template/.ssh"} {
		switch f := l.files[dir]; {
		case f == nil:
			l.found(dir, "leave it in place in hooks", "is missing")
		case !f.is(tar.TypeDir):
			l.found(dir, "leave it in place in hooks", "is not a directory")
		default:
			if f.mode&0o7777 != 0o700 {
				l.found(dir, "chmod 0700 it in a hook", "has mode %04o", f.mode&0o7777)
			}
			if f.uid != l.rules.UID || f.gid != l.rules.GID {
				l.found(dir, "chown it to builder in a hook", "belongs to %d:%d, not to builder", f.uid, f.gid)
			}
		}
	}
}

// essentials are what every start of a container needs.
func (l *Linter) essentials() {
	for _, p := range []struct{ name, remedy string }{
		{"/usr/lib/ephemeral-builder/entrypoint", "leave it in place in hooks"},
		{"/usr/sbin/sshd", "add openssh-server to the packages"},
		{"/bin/sh", "add dash to the packages"},
		{"/usr/bin/perl", "keep perl-base, which the entrypoint is for"},
		{"/bin/bash", "add bash to the packages"},
	} {
		if !l.executable(p.name) {
			l.found(p.name, p.remedy, "is missing or not executable")
		}
	}
	for _, name := range []string{"/etc/os-release", "/usr/lib/ephemeral-builder/sshd_config"} {
		if f := l.files.follow(name); !f.is(tar.TypeReg) || f.size == 0 {
			l.found(name, "leave it in place in hooks", "is missing or empty")
		}
	}
}

func (l *Linter) executable(name string) bool {
	f := l.files.follow(name)
	return f.is(tar.TypeReg) && f.mode&0o001 != 0 && f.size > 0
}
