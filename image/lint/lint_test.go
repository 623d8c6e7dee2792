package lint

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"ephemeral-builder/image/archive"
)

// entry is one file of a test image, by its path without "./"; a directory's ends with "/".
type entry struct {
	mode     int64
	uid, gid int
	content  string
	link     string // makes it a symlink
	hard     string // makes it a hard link
	caps     string
}

const (
	passwd = "root:x:0:0:root:/root:/bin/bash\nman:x:6:12:man:/var/cache/man:/usr/sbin/nologin\n" +
		"builder:x:9000:9001::/home/builder:/bin/bash\n"
	group  = "root:x:0:\nman:x:12:\nshadow:x:42:\nbuilder:x:9001:\n"
	shadow = "root:*:20708:0:99999:7:::\nman:!*:20708::::::\nsshd:!:1::::::\nbuilder:*:20708:0:99999:7:::\n"
	// In parts, lest this file be taken for a key.
	armored = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nbm90IGEga2V5\n-----END OPENSSH " + "PRIVATE KEY-----\n"
)

// good is a small image with nothing wrong.
func good() map[string]entry {
	return map[string]entry{
		"":                                      {mode: 0o755},
		"bin":                                   {link: "usr/bin"},
		"sbin":                                  {link: "usr/sbin"},
		"lib":                                   {link: "/usr/lib"},
		"tmp/":                                  {mode: 0o1777},
		"run/":                                  {mode: 0o755},
		"etc/":                                  {mode: 0o755},
		"etc/passwd":                            {mode: 0o644, content: passwd},
		"etc/group":                             {mode: 0o644, content: group},
		"etc/shadow":                            {mode: 0o640, gid: 42, content: shadow},
		"etc/machine-id":                        {mode: 0o444},
		"etc/resolv.conf":                       {mode: 0o644},
		"etc/os-release":                        {link: "../usr/lib/os-release"},
		"etc/ssh/":                              {mode: 0o755},
		"etc/ssh/sshd_config":                   {mode: 0o644, content: "x"},
		"etc/ssl/":                              {mode: 0o755},
		"etc/ssl/private/":                      {mode: 0o700},
		"etc/ssl/cert.pem":                      {mode: 0o644, content: "-----BEGIN CERTIFICATE-----\n"},
		"etc/doc":                               {mode: 0o644, content: "how a PRIVATE KEY begins: -----BEGIN PRIVATE KEY-----\n"},
		"home/":                                 {mode: 0o755},
		"home/builder/":                         {mode: 0o700, uid: 9000, gid: 9001},
		"home/builder.template/":                {mode: 0o700, uid: 9000, gid: 9001},
		"home/builder.template/a":               {mode: 0o600, uid: 9000, gid: 9001, content: "x"},
		"home/builder.template/.ssh/":           {mode: 0o700, uid: 9000, gid: 9001},
		"home/builder.template/.ssh/id_x.pub":   {mode: 0o644, uid: 9000, gid: 9001, content: "x"},
		"usr/":                                  {mode: 0o755},
		"usr/bin/":                              {mode: 0o755},
		"usr/bin/bash":                          {mode: 0o755, content: "x"},
		"usr/bin/dash":                          {mode: 0o755, content: "x"},
		"usr/bin/sh":                            {link: "dash"},
		"usr/bin/perl":                          {mode: 0o755, content: "x"},
		"usr/bin/passwd":                        {mode: 0o4755, content: "x"},
		"usr/bin/expiry":                        {mode: 0o2755, gid: 42, content: "x"},
		"usr/bin/ping":                          {mode: 0o755, content: "x", caps: "\x01\x00\x00\x02"},
		"usr/bin/ping6":                         {hard: "usr/bin/ping"},
		"usr/lib/":                              {mode: 0o755},
		"usr/lib/os-release":                    {mode: 0o644, content: "x"},
		"usr/lib/ephemeral-builder/":            {mode: 0o755},
		"usr/lib/ephemeral-builder/entrypoint":  {mode: 0o755, content: "x"},
		"usr/lib/ephemeral-builder/sshd_config": {mode: 0o644, content: "x"},
		"usr/sbin/":                             {mode: 0o755},
		"usr/sbin/sshd":                         {mode: 0o755, content: "x"},
		"usr/share/":                            {mode: 0o755},
		"usr/share/example.key":                 {mode: 0o644, content: armored},
		"var/":                                  {mode: 0o755},
		"var/mail/":                             {mode: 0o2775},
		"var/run":                               {link: "/run"},
		"var/log/":                              {mode: 0o755},
		"var/log/apt/":                          {mode: 0o755},
		"var/tmp/":                              {mode: 0o1777},
		"var/lib/apt/lists/":                    {mode: 0o755},
	}
}

var rules = Rules{UID: 9000, GID: 9001, Setuid: []string{"/usr/bin/ping", "/usr/bin/ping6"}}

// lint passes the image through the archive, as a build does.
func lint(t *testing.T, image map[string]entry) error {
	t.Helper()
	// A directory for every name, so that cases need not list them.
	for _, name := range slices.Collect(maps.Keys(image)) {
		for dir := name; strings.Contains(strings.TrimSuffix(dir, "/"), "/"); {
			dir = dir[:strings.LastIndex(strings.TrimSuffix(dir, "/"), "/")] + "/"
			if _, ok := image[dir]; !ok {
				image[dir] = entry{mode: 0o755}
			}
		}
	}
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	for _, name := range slices.SortedFunc(maps.Keys(image), archive.Compare) {
		e := image[name]
		h := &tar.Header{Format: tar.FormatPAX, Name: "./" + name, Mode: e.mode, Uid: e.uid, Gid: e.gid}
		switch {
		case e.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
		case e.hard != "":
			h.Typeflag, h.Linkname = tar.TypeLink, "./"+e.hard
		case name == "", strings.HasSuffix(name, "/"):
			h.Typeflag = tar.TypeDir
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(e.content))
		}
		if e.caps != "" {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": e.caps}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l := New(rules)
	if _, err := archive.Pack(t.Context(), &raw, io.Discard, archive.Options{Visit: []archive.Visitor{l.Visit}}); err != nil {
		t.Fatal(err)
	}
	return l.Findings()
}

func TestGood(t *testing.T) {
	if err := lint(t, good()); err != nil {
		t.Errorf("got %v, want no finding", err)
	}
}

func TestRules(t *testing.T) {
	file := entry{mode: 0o644, content: "x"}
	set := func(name string, e entry) func(map[string]entry) {
		return func(image map[string]entry) { image[name] = e }
	}
	remove := func(name string) func(map[string]entry) {
		return func(image map[string]entry) { delete(image, name) }
	}
	edit := func(name, old, new string) func(map[string]entry) {
		return func(image map[string]entry) {
			e := image[name]
			if !strings.Contains(e.content, old) {
				t.Errorf("%s has no %q", name, old)
			}
			e.content = strings.Replace(e.content, old, new, 1)
			image[name] = e
		}
	}
	tests := []struct {
		change func(map[string]entry)
		want   string // path and what is wrong
	}{
		{set("etc/ssh/ssh_host_ed25519_key", file), "/etc/ssh/ssh_host_ed25519_key is a host key"},
		{set("etc/ssh/ssh_host_rsa_key.pub", file), "/etc/ssh/ssh_host_rsa_key.pub is a host key"},
		{set("root/.ssh/authorized_keys", file), "/root/.ssh/authorized_keys lets somebody in"},
		{set("home/other/.ssh/authorized_keys2", file), "/home/other/.ssh/authorized_keys2 lets somebody in"},
		{set("home/builder.template/.ssh/authorized_keys", entry{mode: 0o644, uid: 9000, gid: 9001}), "/home/builder.template/.ssh/authorized_keys lets somebody in"},
		{set("etc/ssh/authorized_keys", file), "/etc/ssh/authorized_keys lets somebody in"},
		{set("etc/ssh/authorized_keys.d/builder", file), "/etc/ssh/authorized_keys.d/builder lets somebody in"},
		{set("root/.ssh/id_ed25519", file), "/root/.ssh/id_ed25519 is a private key"},
		{set("root/.ssh/deploy", entry{mode: 0o600, content: armored}), "/root/.ssh/deploy is a private key"},
		{set("etc/tls.pem", entry{mode: 0o600, content: "-----BEGIN CERTIFICATE-----\n" + strings.ReplaceAll(armored, "OPENSSH ", "")}), "/etc/tls.pem is a private key"},
		{set("srv/key", entry{mode: 0o600, content: strings.ReplaceAll(strings.ReplaceAll(armored, "OPENSSH", "EC"), "\n", "\r\n")}), "/srv/key is a private key"},
		{set("opt/key.asc", entry{mode: 0o600, content: "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----\n"}), "/opt/key.asc is a private key"},
		{set("root/.gnupg/private-keys-v1.d/0.key", file), "/root/.gnupg/private-keys-v1.d/0.key is a private key"},
		{set("etc/ssl/private/snakeoil.key", file), "/etc/ssl/private/snakeoil.key is a private key"},
		{set("etc/apt/auth.conf", file), "/etc/apt/auth.conf has apt's passwords"},
		{set("etc/apt/auth.conf.d/private.conf", file), "/etc/apt/auth.conf.d/private.conf has apt's passwords"},

		{edit("etc/shadow", "root:*:", "root:$6$salt$hash:"), "/etc/shadow has a password of root"},
		{edit("etc/shadow", "man:!*:", "man::"), "/etc/shadow lets man in without a password"},

		{edit("etc/machine-id", "", "0123456789abcdef0123456789abcdef\n"), "/etc/machine-id is not empty"},
		{remove("etc/machine-id"), "/etc/machine-id is missing"},
		{set("etc/machine-id", entry{link: "/run/machine-id"}), "/etc/machine-id is a link to /run/machine-id"},
		{set("etc/resolv.conf", file), "/etc/resolv.conf is not empty"},
		{set("etc/resolv.conf", entry{link: "../run/systemd/resolve/stub-resolv.conf"}), "/etc/resolv.conf is a link to ../run/systemd/resolve/stub-resolv.conf"},
		{remove("etc/resolv.conf"), "/etc/resolv.conf is missing"},
		{func(image map[string]entry) {
			delete(image, "etc/resolv.conf")
			image["etc/resolv.conf/"] = entry{mode: 0o755}
		}, "/etc/resolv.conf is not a file"},

		{set("usr/bin/sudo", entry{mode: 0o4755, content: "x"}), "/usr/bin/sudo is setuid and not on the list"},
		{set("usr/bin/write", entry{mode: 0o2755, content: "x"}), "/usr/bin/write is setgid and not on the list"},
		{set("usr/bin/zap", entry{hard: "usr/bin/passwd"}), "/usr/bin/zap is setuid and not on the list"},
		{set("usr/bin/tcpdump", entry{mode: 0o755, content: "x", caps: "\x01"}), "/usr/bin/tcpdump has capabilities and is not on the list"},

		{set("usr/bin/open", entry{mode: 0o666, content: "x"}), "/usr/bin/open is writable for everybody"},
		{set("srv/sticky", entry{mode: 0o1666, content: "x"}), "/srv/sticky is writable for everybody"},
		{set("srv/open/", entry{mode: 0o777}), "/srv/open is writable for everybody and not sticky"},

		{set("srv/a", entry{mode: 0o644, uid: 1234}), "/srv/a belongs to uid 1234, which is not in /etc/passwd"},
		{set("srv/a", entry{mode: 0o644, gid: 1234}), "/srv/a belongs to gid 1234, which is not in /etc/group"},
		{set("srv/a", entry{link: "b", uid: 1234}), "/srv/a belongs to uid 1234, which is not in /etc/passwd"},

		{set("var/lib/apt/lists/partial/x", file), "/var/lib/apt/lists/partial/x is an index of apt"},
		{set("var/cache/apt/pkgcache.bin", file), "/var/cache/apt/pkgcache.bin is a cache of apt"},
		{set("var/cache/man/index.db", file), "/var/cache/man/index.db is a cache of man"},
		{set("var/log/dpkg.log", file), "/var/log/dpkg.log is a log"},
		{set("var/backups/dpkg.status.0", file), "/var/backups/dpkg.status.0 is a backup"},
		{set("tmp/x/", entry{mode: 0o755}), "/tmp/x is left over in /tmp"},
		{set("var/tmp/x", file), "/var/tmp/x is left over in /var/tmp"},
		{set("run/lock/", entry{mode: 0o1777}), "/run/lock is left over in /run"},
		{set("etc/shadow-", file), "/etc/shadow- is a copy of an earlier state"},
		{set("var/cache/debconf/config.dat-old", file), "/var/cache/debconf/config.dat-old is a copy of an earlier state"},
		{set("var/lib/dpkg/status-old", file), "/var/lib/dpkg/status-old is a copy of an earlier state"},
		{set("usr/bin/perl.dpkg-new", file), "/usr/bin/perl.dpkg-new is left over from dpkg"},
		{set("debootstrap/", entry{mode: 0o755}), "/debootstrap is left over from debootstrap"},
		{set("etc/.pwd.lock", file), "/etc/.pwd.lock differs with every build"},
		{set("var/cache/ldconfig/aux-cache", file), "/var/cache/ldconfig/aux-cache differs with every build"},
		{set("etc/hostname", file), "/etc/hostname belongs to one machine"},
		{set("var/lib/dbus/machine-id", entry{link: "/etc/machine-id"}), "/var/lib/dbus/machine-id belongs to one machine"},
		{set("var/lib/systemd/random-seed", file), "/var/lib/systemd/random-seed belongs to one machine"},
		{set("home/builder/.profile", entry{mode: 0o644, uid: 9000, gid: 9001}), "/home/builder/.profile is hidden"},

		{edit("etc/passwd", "builder:x:9000:9001", "other:x:9000:9001::/:/bin/sh\nbuilder:x:0:9001"), "/etc/passwd has builder as 0:9001, the spec as 9000:9001"},
		{edit("etc/passwd", ":/home/builder:", ":/:"), `/etc/passwd has "/" as the home of builder`},
		{edit("etc/passwd", "::/home/builder:/bin/bash", "::/home/builder:/bin/false"), `/etc/passwd has "/bin/false" as the shell of builder`},
		{edit("etc/group", "builder:x:9001", "other:x:9001:\nbuilder:x:12"), "/etc/group has no group builder with gid 9001"},
		{edit("etc/shadow", "builder:*", "builder:!"), `/etc/shadow does not have "*" as the password of builder`},
		{remove("home/builder/"), "/home/builder is missing"},
		{set("home/builder.template/", entry{mode: 0o755, uid: 9000, gid: 9001}), "/home/builder.template has mode 0755"},
		{set("home/builder.template/", entry{mode: 0o700}), "/home/builder.template belongs to 0:0, not to builder"},
		{set("home/builder.template/.ssh/", entry{mode: 0o755, uid: 9000, gid: 9001}), "/home/builder.template/.ssh has mode 0755"},
		{func(image map[string]entry) {
			maps.DeleteFunc(image, func(name string, _ entry) bool { return strings.HasPrefix(name, "home/builder.template/.ssh") })
			image["home/builder.template/.ssh"] = entry{link: "/root/.ssh"}
		}, "/home/builder.template/.ssh is not a directory"},

		{remove("usr/lib/ephemeral-builder/entrypoint"), "/usr/lib/ephemeral-builder/entrypoint is missing"},
		{set("usr/lib/ephemeral-builder/entrypoint", file), "/usr/lib/ephemeral-builder/entrypoint is missing or not executable"},
		{remove("usr/lib/ephemeral-builder/sshd_config"), "/usr/lib/ephemeral-builder/sshd_config is missing"},
		{remove("usr/sbin/sshd"), "/usr/sbin/sshd is missing"},
		{remove("usr/bin/perl"), "/usr/bin/perl is missing"},
		{remove("usr/bin/dash"), "/bin/sh is missing"},
		{set("usr/bin/sh", entry{link: "sh"}), "/bin/sh is missing"},
		{set("etc/os-release", entry{link: "/lib/../nowhere"}), "/etc/os-release is missing"},
	}
	for _, test := range tests {
		t.Run(test.want, func(t *testing.T) {
			image := good()
			test.change(image)
			err := lint(t, image)
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Fatalf("got %v, want %s…", err, test.want)
			}
			findings := err.(interface{ Unwrap() []error }).Unwrap()
			if len(findings) != 1 {
				t.Errorf("got %d findings, want one:\n%v", len(findings), err)
			}
			for _, f := range findings {
				if f.(*Finding).Remedy == "" {
					t.Errorf("%v: no remedy", f)
				}
			}
		})
	}
}

// TestTogether checks what the table can't: order, lines, what is alike, and strange names.
func TestTogether(t *testing.T) {
	image := good()
	delete(image, "usr/bin/bash") // also the builder's shell
	image["tmp/a\nb"] = entry{mode: 0o644}
	for i := range 8 {
		image[fmt.Sprintf("var/log/%d", i)] = entry{mode: 0o644, uid: 77}
	}
	want := `/bin/bash is missing or not executable: add bash to the packages
/etc/passwd has "/bin/bash" as the shell of builder, which is no program of the image: leave the builder's account as it is in hooks
"/tmp/a\nb" is left over in /tmp: remove it in a hook
/var/log/0 is a log: remove it in a hook
/var/log/0 belongs to uid 77, which is not in /etc/passwd: chown it in a hook, or add the user
/var/log/1 is a log: remove it in a hook
/var/log/1 belongs to uid 77, which is not in /etc/passwd: chown it in a hook, or add the user
/var/log/2 is a log: remove it in a hook
/var/log/2 belongs to uid 77, which is not in /etc/passwd: chown it in a hook, or add the user
/var/log/3 is a log: remove it in a hook
/var/log/3 belongs to uid 77, which is not in /etc/passwd: chown it in a hook, or add the user
/var/log/4 and 3 more, each is a log: remove it in a hook
/var/log/4 and 3 more, each belongs to uid 77, which is not in /etc/passwd: chown it in a hook, or add the user`
	if got := fmt.Sprint(lint(t, image)); got != want {
		t.Errorf("got\n%s\n\nwant\n%s", got, want)
	}
}

func TestEmptyImage(t *testing.T) {
	err := New(rules).Findings()
	for _, want := range []string{"/etc/passwd has no user builder", "/home/builder.template is missing", "/bin/sh is missing", "/etc/machine-id is missing"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want …%s…", err, want)
		}
	}
}
