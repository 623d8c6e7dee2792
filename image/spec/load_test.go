package spec

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

func TestDefault(t *testing.T) {
	want := Spec{
		Name:  "ephemeral-builder",
		Suite: "stable",
		Packages: []string{"dbus", "systemd-container", "openssh-server", "build-essential",
			"git", "composer", "rsync", "wget", "curl"},
		Concurrency: 4,
		Start:       StartOnDemand,
		Network:     NetworkPrivate,
		Root:        RootReadOnly,
		Home:        HomeMemory,
		User:        User{9000, 9000},
		SSH:         SSH{Listen: netip.MustParseAddrPort("127.0.0.1:24")},
		Limits:      Limits{StartTimeout: Duration(30 * time.Second), Lifetime: Duration(2 * time.Hour)},
	}
	got, err := Parse("empty.toml", nil)
	if err != nil || !same(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
}

// same compares all that is written in a spec, but not where that was read.
func same(a, b Spec) bool {
	a.origin, b.origin = nil, nil
	return reflect.DeepEqual(a, b)
}

// Each number that administrators know from running such builders by hand is one line.
func TestOneLiners(t *testing.T) {
	tests := map[string]func(*Spec){
		`user.uid = 9000`:                          func(s *Spec) { s.User.UID = 9000 },
		`user.gid = 9000`:                          func(s *Spec) { s.User.GID = 9000 },
		`user = {uid = 1000, gid = 59999}`:         func(s *Spec) { s.User = User{1000, 59999} },
		`ssh.listen = "127.0.0.1:24"`:              func(s *Spec) { s.SSH.Listen = netip.MustParseAddrPort("127.0.0.1:24") },
		`ssh.listen = "[::1]:65535"`:               func(s *Spec) { s.SSH.Listen = netip.MustParseAddrPort("[::1]:65535") },
		`ssh.agent = 25`:                           func(s *Spec) { s.SSH.Agent = 25 },
		"canaries = ['10.0.0.11']\nssh.agent = 25": func(s *Spec) { s.Canaries, s.SSH.Agent = []netip.Addr{netip.MustParseAddr("10.0.0.11")}, 25 },
		"ssh = {listen = '0.0.0.0:24', from = ['10.0.0.5', '10.1.0.0/16'], rate = 9}": func(s *Spec) {
			s.SSH = SSH{Listen: netip.MustParseAddrPort("0.0.0.0:24"), Rate: 9, From: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/32"), netip.MustParsePrefix("10.1.0.0/16")}}
		},
		"ssh = {listen = '[::]:24', from = ['10.0.0.5', 'fd00::/8']}": func(s *Spec) {
			s.SSH = SSH{Listen: netip.MustParseAddrPort("[::]:24"), From: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/32"), netip.MustParsePrefix("fd00::/8")}}
		},
		`limits.cpu_quota = "25%"`:                  func(s *Spec) { s.Limits.CPUQuota = 25 },
		`limits.cpu_quota = ""`:                     func(s *Spec) { s.Limits.CPUQuota = 0 },
		`limits.memory_high = "128M"`:               func(s *Spec) { s.Limits.MemoryHigh = 128 << 20 },
		`limits.memory_max = "256M"`:                func(s *Spec) { s.Limits.MemoryMax = 256 << 20 },
		`limits.memory_max = ""`:                    func(s *Spec) { s.Limits.MemoryMax = 0 },
		`limits.tasks_max = 64`:                     func(s *Spec) { s.Limits.TasksMax = 64 },
		`limits.home_size = "64M"`:                  func(s *Spec) { s.Limits.HomeSize = 64 << 20 },
		`limits.tmp_size = "64M"`:                   func(s *Spec) { s.Limits.TmpSize = 64 << 20 },
		`limits.start_timeout = "90s"`:              func(s *Spec) { s.Limits.StartTimeout = Duration(90 * time.Second) },
		`limits.lifetime = "1h30m"`:                 func(s *Spec) { s.Limits.Lifetime = Duration(90 * time.Minute) },
		`concurrency = 16`:                          func(s *Spec) { s.Concurrency = 16 },
		`name = "php-8"`:                            func(s *Spec) { s.Name = "php-8" },
		`suite = "bookworm"`:                        func(s *Spec) { s.Suite = "bookworm" },
		`mirror = "file:///srv/debian"`:             func(s *Spec) { s.Mirror = "file:///srv/debian" },
		`mirror = "file:/srv/debian"`:               func(s *Spec) { s.Mirror = "file:/srv/debian" },
		`mirror = "https://[fd00::1]:8080/debian/"`: func(s *Spec) { s.Mirror = "https://[fd00::1]:8080/debian/" },
		`arch = "arm64"`:                            func(s *Spec) { s.Arch = "arm64" },
		`arch = ""`:                                 func(s *Spec) {},
		`files = "files"`:                           func(s *Spec) { s.Files = "files" },
		`hooks = ["a.sh", "../b.sh"]`:               func(s *Spec) { s.Hooks = []string{"a.sh", "../b.sh"} },
		`hooks = []`:                                func(s *Spec) {},
		`setuid = ["/usr/bin/newuidmap"]`:           func(s *Spec) { s.Setuid = []string{"/usr/bin/newuidmap"} },
		`sources = []`:                              func(s *Spec) {},
		`sources = [{uri = "https://h/d", suite = "trixie-security"}]`: func(s *Spec) {
			s.Sources = []Source{{URI: "https://h/d", Suite: "trixie-security", Components: []string{"main"}}}
		},
		"[[sources]]\nuri = 'http://h'\nsuite = 'bullseye/updates'\ncomponents = ['main', 'non-free']\nkey = '../k.asc'\n" +
			"[[sources]]\nuri = 'file:///srv'\nsuite = 'sid'": func(s *Spec) {
			s.Sources = []Source{
				{"http://h", "bullseye/updates", []string{"main", "non-free"}, "../k.asc"},
				{"file:///srv", "sid", []string{"main"}, ""},
			}
		},
		`packages = ["openssh-server", "g++"]`: func(s *Spec) { s.Packages = []string{"openssh-server", "g++"} },
		`network = "private"`:                  func(s *Spec) {},
		`network = "host"`:                     func(s *Spec) { s.Network = NetworkHost },
		`network = "none"`:                     func(s *Spec) { s.Network = NetworkNone },
		`allow = ["gitlab.example.com:443", "[fd00::/8]:53/udp"]`: func(s *Spec) { s.Allow = []string{"gitlab.example.com:443", "[fd00::/8]:53/udp"} },
		`allow = []`:             func(s *Spec) {},
		`resolver = "10.0.0.53"`: func(s *Spec) { s.Resolver = netip.MustParseAddr("10.0.0.53") },
		`resolver = "fd00::53"`:  func(s *Spec) { s.Resolver = netip.MustParseAddr("fd00::53") },
		`resolver = ""`:          func(s *Spec) {},
		`root = "read-only"`:     func(s *Spec) {},
		`root = "sudo"`:          func(s *Spec) { s.Root, s.Packages = RootSudo, append(s.Packages, "sudo") },
		"root = 'sudo'\npackages = ['sudo', 'openssh-server']": func(s *Spec) { s.Root, s.Packages = RootSudo, []string{"sudo", "openssh-server"} },
		`home = "memory"`: func(s *Spec) {},
		`start = "warm"`:  func(s *Spec) { s.Start = StartWarm },
		`home = "disk"`:   func(s *Spec) { s.Home = HomeDisk },
		"home = 'disk'\n[limits]\nhome_size = '16M'\nmemory_max = '32M'": func(s *Spec) { s.Home, s.Limits.HomeSize, s.Limits.MemoryMax = HomeDisk, 16<<20, 32<<20 },
		"home = 'disk'\n[limits]\nhome_size = '8G'\nmemory_max = '1G'":   func(s *Spec) { s.Home, s.Limits.HomeSize, s.Limits.MemoryMax = HomeDisk, 8<<30, 1<<30 },
	}
	for line, set := range tests {
		t.Run(line, func(t *testing.T) {
			want := Default()
			set(&want)
			got, err := Parse("x.toml", []byte(line))
			if err != nil || !same(got, want) {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

func TestProblems(t *testing.T) {
	const listenHelp = `not an IP address with a port from 1 to 65535: use 127.0.0.1:24 or [::1]:24`
	const outside = `jobs' sshd would be reachable for everybody: name in ssh.from who may connect, or use 127.0.0.1 or [::1]`
	const plain = `use a plain address of this host, such as 127.0.0.1 or [::1]`
	const sizeHelp = `not a size above zero: use bytes, or K, M, G or T of 1024 each, such as "256M"`
	const percentHelp = `not a whole per cent of 1% or more: use per cent of one core, such as "25%"`
	const durationHelp = `not a time of whole seconds above zero: use h, m and s, such as "90s" or "1h30m"`
	const nameHelp = `use lower-case letters, digits and single hyphens, a letter first and no hyphen last`
	const idHelp = `use 1000 to 59999, the range Debian keeps for ordinary users`
	const urlHelp = `use http://HOST/PATH, https://HOST/PATH or file:///PATH, without blanks, commas, user name or password`
	const mirrorHelp = `mirror is no plain URL: ` + urlHelp
	const suiteHelp = `use the name of a folder below dists/, such as trixie-backports: an archive without dists/ can't be used`
	const absolute = `is absolute: use a path relative to the folder of the spec, which can be moved with it`
	const resolverHelp = `not an IP address: use one without a port, such as "10.0.0.53"`
	const setuidHelp = `use the absolute path of one file, without patterns`
	const source = "[[sources]]\nuri = 'http://h'\nsuite = 'sid'\n"
	const packageHelp = `use a to z, 0 to 9, +, - and . only, two at least, a letter or digit first`
	const noQuotes = `text without quotes: put "..." around it`

	tests := []struct{ name, in, want string }{
		// Keys.
		{"misspelt key", "\n\nconcurency = 4", `x.toml:3: unknown key "concurency": did you mean "concurrency"?`},
		{"misspelt key in a table", "[limits]\nmemory_mx = 'a'", `x.toml:2: unknown key "limits.memory_mx": did you mean "limits.memory_max"?`},
		{"misspelt dotted key", "limits.memory_mx = 'a'", `x.toml:1: unknown key "limits.memory_mx": did you mean "limits.memory_max"?`},
		{"misspelt key in an inline table", "limits = {\n tasks_max = 64,\n memory_mx = 'a' }", `x.toml:3: unknown key "limits.memory_mx": did you mean "limits.memory_max"?`},
		{"systemd's spelling", "[limits]\nMemoryMax = '1G'", `x.toml:2: unknown key "limits.MemoryMax": did you mean "limits.memory_max"?`},
		{"key outside its table", "uid = 9000", `x.toml:1: unknown key "uid": did you mean "user.uid"?`},
		{"misspelt key outside its table", "memory_mx = 9000", `x.toml:1: unknown key "memory_mx": did you mean "limits.memory_max"?`},
		{"key in another table", "[ssh]\ngid = 9000", `x.toml:2: unknown key "ssh.gid": did you mean "user.gid"?`},
		{"top-level key in a table", "[limits]\ntasks_max = 64\nconcurrency = 2", `x.toml:3: unknown key "limits.concurrency": did you mean "concurrency"? it goes above the first [table]`},
		{"unknown key", "zzz = 1", `x.toml:1: unknown key "zzz": use name, suite, mirror, arch, packages, sources, files, hooks, setuid, concurrency, start, network, allow, resolver, root, home, cache, git_mirror, canaries`},
		{"unknown key in a table", "[user]\nshell = 1", `x.toml:2: unknown key "user.shell": use user.uid, user.gid`},
		{"misspelt table", "[limit]\nmemory_max = '1G'\ntasks_max = 4", `x.toml:1: unknown table "limit": did you mean "limits"?`},
		{"unknown table", "[container]\nmtu = 4", `x.toml:1: unknown table "container": use sources, user, ssh, limits`},
		{"quoted key with a dot", `"user.uid" = 0`, `x.toml:1: unknown key "\"user.uid\"": did you mean "user.uid"?`},
		{"empty key", `"" = 0`, `x.toml:1: unknown key "\"\"": use name, suite, mirror, arch, packages, sources, files, hooks, setuid, concurrency, start, network, allow, resolver, root, home, cache, git_mirror, canaries`},
		{"misspelt key of a source", "[[sources]]\nsuite = 'sid'\n[[sources]]\nurl = 'x'\n\nky = 'y'", `x.toml:4: unknown key "sources[1].url": did you mean "sources[1].uri"?` + "\n" +
			`x.toml:6: unknown key "sources[1].ky": did you mean "sources[1].key"?`},
		{"misspelt key of an inline source", "sources = [\n{ suite = 'sid' },\n{ suit = 'x' } ]", `x.toml:3: unknown key "sources[1].suit": did you mean "sources[1].suite"?`},
		{"unknown key of a source", "[[sources]]\nzzz = 'x'", `x.toml:2: unknown key "sources[0].zzz": use sources[0].uri, sources[0].suite, sources[0].components, sources[0].key`},
		{"key outside its source", "uri = 'http://h'", `x.toml:1: unknown key "uri": did you mean "[[sources]].uri"?`},
		{"top-level key below a source", "[[sources]]\nsuite = 'sid'\nhooks = ['x']", `x.toml:3: unknown key "sources[0].hooks": did you mean "hooks"? it goes above the first [table]`},
		{"misspelt array of tables", "\n[[source]]\nsuite = 'sid'", `x.toml:2: unknown key "source": did you mean "sources"?`},
		{"misspelt table for sources", "\n[source]\nsuite = 'sid'", `x.toml:2: unknown table "source": did you mean "sources"?`},
		{"table in a source", "[[sources]]\n[[sources]]\n[sources.key]\na = 1", `x.toml:3: sources[1].key is a table: use text in quotes`},
		{"misspelt hooks", "hook = ['x']", `x.toml:1: unknown key "hook": did you mean "hooks"?`},
		{"misspelt setuid", "set_uid = ['x']", `x.toml:1: unknown key "set_uid": did you mean "setuid"?`},
		{"misspelt files", "file = 'x'", `x.toml:1: unknown key "file": did you mean "files"?`},
		{"misspelt network", "net_work = 'x'", `x.toml:1: unknown key "net_work": did you mean "network"?`},
		{"misspelt allow", "allowed = ['x']", `x.toml:1: unknown key "allowed": did you mean "allow"?`},
		{"misspelt resolver", "resolve = 'x'", `x.toml:1: unknown key "resolve": did you mean "resolver"?`},
		{"misspelt root", "roots = 'x'", `x.toml:1: unknown key "roots": did you mean "root"?`},
		{"relative mirror", "git_mirror = 'mirror'", `x.toml:1: git_mirror "mirror": use an absolute path of letters, digits and -._/`},
		{"tiny cache", "cache = '1M'", `x.toml:1: cache is 1M: use 16M or more, an ext4 file system has to fit, or leave it out for none`},
		{"misspelt home", "homes = 'x'", `x.toml:1: unknown key "homes": did you mean "home"?`},
		{"misspelt arch", "archs = 'x'", `x.toml:1: unknown key "archs": did you mean "arch"?`},

		// Types.
		{"string for a number", "[user]\nuid = '9000'", `x.toml:2: user.uid is a string: use a whole number without quotes`},
		{"float for a number", "concurrency = 1.5", `x.toml:1: concurrency is a float: use a whole number without quotes`},
		{"number for a string", "name = 1", `x.toml:1: name is an integer: use text in quotes`},
		{"date for a string", "suite = 2026-01-01", `x.toml:1: suite is a date or time: use text in quotes`},
		{"boolean for a string", "mirror = false", `x.toml:1: mirror is a boolean: use text in quotes`},
		{"number for a size", "limits.memory_max = 256", `x.toml:1: limits.memory_max is an integer: use text in quotes, such as "256M"`},
		{"number for a percentage", "limits.cpu_quota = 25", `x.toml:1: limits.cpu_quota is an integer: use text in quotes, such as "25%"`},
		{"number for a duration", "limits.lifetime = 60", `x.toml:1: limits.lifetime is an integer: use text in quotes, such as "90s"`},
		{"number for an address", "ssh.listen = 24", `x.toml:1: ssh.listen is an integer: use text in quotes, such as "127.0.0.1:24"`},
		{"string for a list", "packages = 'git'", `x.toml:1: packages is a string: use a list, such as ["git", "curl"]`},
		{"number in a list", "packages = [\n'git',\n3]", `x.toml:3: packages has an integer in it: use text in quotes`},
		{"list in a list", "packages = [\n'git',\n['curl']]", `x.toml:1: packages has an array in it: use text in quotes`},
		{"table for a string", "[name]\na = 1", `x.toml:1: name is a table: use text in quotes`},
		{"value for a table", "user = 9000", `x.toml:1: user is an integer: use a table, [user]`},
		{"array of tables", "\n[[user]]\nuid = 1", `x.toml:2: user is an array: use a table, [user]`},
		{"table for sources", "\n[sources]\nuri = 'http://h'", `x.toml:2: sources is a table: use a table for each, [[sources]] with uri and suite`},
		{"strings for sources", "sources = [\n'http://h']", `x.toml:2: sources[0] is a string: use a table, [[sources]] with uri and suite`},
		{"number in a source", "[[sources]]\nuri = 'http://h'\nsuite = 13", `x.toml:3: sources[0].suite is an integer: use text in quotes`},
		{"string for components", "[[sources]]\n[[sources]]\ncomponents = 'main'", `x.toml:3: sources[1].components is a string: use a list, such as ["git", "curl"]`},
		{"table for a network", "[network]\nmtu = 4", `x.toml:1: network is a table: use text in quotes`},
		{"boolean for root", "root = true", `x.toml:1: root is a boolean: use text in quotes`},
		{"list for a resolver", "resolver = ['10.0.0.53']", `x.toml:1: resolver is an array: use text in quotes, such as "10.0.0.53"`},
		{"number in allow", "allow = [\n443]", `x.toml:2: allow has an integer in it: use text in quotes`},
		{"string for hooks", "hooks = 'x'", `x.toml:1: hooks is a string: use a list, such as ["git", "curl"]`},

		// Syntax.
		{"no quotes", "\nname = php", `x.toml:2:8: ` + noQuotes},
		{"no quotes, like true", "suite = trixie", `x.toml:1:9: ` + noQuotes},
		{"no quotes, size", "[limits]\nmemory_max = 256M # or so", `x.toml:2:17: ` + noQuotes},
		{"no quotes, per cent", "[limits]\ncpu_quota = 25%", `x.toml:2:15: ` + noQuotes},
		{"no quotes, address", "[ssh]\nlisten = 127.0.0.1:24", `x.toml:2:15: ` + noQuotes},
		{"no quotes, IP address", "resolver = 10.0.0.53", `x.toml:1:16: ` + noQuotes},
		{"no quotes, list", "packages = [git]", `x.toml:1:13: ` + noQuotes},
		{"no value", "name\n", `x.toml:1:5: expected '=' after key: see toml.io for the syntax`},
		{"no end of a string", "name = \"php\nsuite = \"stable\"", `x.toml:1:12: basic strings cannot have new lines: see toml.io for the syntax`},
		{"key twice", "concurrency = 1\nconcurrency = 2", `x.toml:2:1: key concurrency is already defined: keep one of the two`},
		{"table twice", "[user]\nuid = 1000\n[user]", `x.toml:3:2: table user already exists: keep one of the two`},

		// Values.
		{"name in capitals", "name = 'PHP'", `x.toml:1: name "PHP": ` + nameHelp},
		{"name with a digit first", "name = '8php'", `x.toml:1: name "8php": ` + nameHelp},
		{"name with a hyphen last", "name = 'php-'", `x.toml:1: name "php-": ` + nameHelp},
		{"name with two hyphens", "name = 'php--8'", `x.toml:1: name "php--8": ` + nameHelp},
		{"name with a newline", `name = "php\n"`, `x.toml:1: name "php\n": ` + nameHelp},
		{"no name", "name = ''", `x.toml:1: name "": ` + nameHelp},
		{"long name", "name = '" + strings.Repeat("a", 59) + "'", `x.toml:1: name has 59 bytes: use at most 58, as NAME-PORT is a host name, which ends at 64`},
		{"systemd's slice", "name = 'machine'", `x.toml:1: name "machine": systemd has units of its own of this name: use another`},
		{"suite in capitals", "suite = 'Stable'", `x.toml:1: suite "Stable": use a Debian suite or codename, such as stable or bookworm`},
		{"mirror of another scheme", "mirror = 'ftp://mirror.example/debian'", `x.toml:1: ` + mirrorHelp},
		{"mirror with a blank", "mirror = 'http://mirror.example/debian main'", `x.toml:1: ` + mirrorHelp},
		{"mirror with a comma", "mirror = 'http://mirror.example/a,b'", `x.toml:1: ` + mirrorHelp},
		{"mirror with a password", "mirror = 'http://me:secret@mirror.example/debian'", `x.toml:1: ` + mirrorHelp},
		{"mirror without a host", "mirror = 'http:///debian'", `x.toml:1: ` + mirrorHelp},
		{"relative mirror", "mirror = 'debian'", `x.toml:1: ` + mirrorHelp},
		{"the kernel's architecture", "arch = 'x86_64'", `x.toml:1: arch "x86_64": use amd64, arm64, or nothing for the machine's own`},
		{"source without anything", "\n[[sources]]", "x.toml:2: sources[0].suite is missing: use the name of a folder below dists/, such as trixie-backports\n" +
			"x.toml:2: sources[0].uri is missing: " + urlHelp},
		{"source with a password", source + "\n[[sources]]\nsuite = 'sid'\nuri = 'http://me:secret@h'", "x.toml:7: sources[1].uri is no plain URL: " + urlHelp},
		{"source with a blank", "[[sources]]\nsuite = 'sid'\nuri = 'http://h d'", "x.toml:3: sources[0].uri is no plain URL: " + urlHelp},
		{"source with options", "[[sources]]\nsuite = 'sid'\nuri = '[trusted=yes] http://h'", "x.toml:3: sources[0].uri is no plain URL: " + urlHelp},
		{"source that is flat", "[[sources]]\nuri = 'http://h'\nsuite = './'", `x.toml:3: sources[0].suite "./": ` + suiteHelp},
		{"suite that leads out", "[[sources]]\nuri = 'http://h'\nsuite = 'a/../..'", `x.toml:3: sources[0].suite "a/../..": ` + suiteHelp},
		{"suite with a blank", "[[sources]]\nuri = 'http://h'\nsuite = 'sid main'", `x.toml:3: sources[0].suite "sid main": ` + suiteHelp},
		{"source twice", source + source, `x.toml:6: sources[1].suite "sid" is listed twice for this uri: name all components in one of the two`},
		{"no components", source + "components = []", `x.toml:4: sources[0].components is empty: leave it out for main alone`},
		{"component with a blank", source + "components = [\n'main contrib']", `x.toml:5: sources[0].components[0] "main contrib" is no component: use main, contrib, non-free or what else the archive has`},
		{"component twice", source + "components = ['main',\n'main']", `x.toml:5: sources[0].components[1] "main" is listed twice: remove one`},
		{"absolute key", source + "key = '/etc/k.asc'", `x.toml:4: sources[0].key "/etc/k.asc" ` + absolute},
		{"absolute files", "files = '/etc'", `x.toml:1: files "/etc" ` + absolute},
		{"absolute hook", "hooks = ['a',\n'/b']", `x.toml:2: hooks: "/b" ` + absolute},
		{"empty hook", "hooks = ['']", `x.toml:1: hooks: is empty: use the path of a file`},
		{"hook twice", "hooks = ['a', 'b',\n'a']", `x.toml:2: hooks: "a" is listed twice: remove one`},
		{"relative setuid", "setuid = ['usr/bin/sudo']", `x.toml:1: setuid: "usr/bin/sudo": ` + setuidHelp},
		{"setuid with a pattern", "setuid = ['/usr/bin/*']", `x.toml:1: setuid: "/usr/bin/*": ` + setuidHelp},
		{"setuid with dots", "setuid = ['/usr/../bin/sudo']", `x.toml:1: setuid: "/usr/../bin/sudo": ` + setuidHelp},
		{"setuid with a newline", `setuid = ["/usr/bin/sudo\n"]`, `x.toml:1: setuid: "/usr/bin/sudo\n": ` + setuidHelp},
		{"setuid of a folder", "setuid = ['/usr/bin/']", `x.toml:1: setuid: "/usr/bin/": ` + setuidHelp},
		{"setuid behind a link", "setuid = ['/lib/x/helper']", `x.toml:1: setuid: "/lib/x/helper" is behind a link: use "/usr/lib/x/helper"`},
		{"setuid twice", "setuid = ['/usr/bin/a',\n'/usr/bin/a']", `x.toml:2: setuid: "/usr/bin/a" is listed twice: remove one`},
		{"no packages", "packages = []", `x.toml:1: packages is empty: every container runs sshd: add openssh-server`},
		{"no sshd", "packages = [\n'git']", `x.toml:1: packages: every container runs sshd: add openssh-server`},
		{"package in capitals", "packages = ['openssh-server',\n'Git']", `x.toml:2: packages: "Git" is no Debian package name: ` + packageHelp},
		{"package with a version", "packages = ['openssh-server',\n'git=1:2']", `x.toml:2: packages: "git=1:2" is no Debian package name: ` + packageHelp},
		{"package that is an option", "packages = ['openssh-server',\n'-o']", `x.toml:2: packages: "-o" is no Debian package name: ` + packageHelp},
		{"package twice", "packages = [\n'git', # first\n'openssh-server',\n'git', # again\n]", `x.toml:4: packages: "git" is listed twice: remove one`},
		{"no concurrency", "concurrency = 0", `x.toml:1: concurrency is 0: use 1 to 1000`},
		{"much concurrency", "concurrency = 1001", `x.toml:1: concurrency is 1001: use 1 to 1000`},
		{"unknown network", "network = 'bridge'", `x.toml:1: network "bridge": use private, host or none`},
		{"unknown root", "root = 'Sudo'", `x.toml:1: root "Sudo": use read-only or sudo`},
		{"unknown home", "home = ''", `x.toml:1: home "": use memory or disk`},
		{"allow without a port", "allow = [\n'10.0.0.5:22',\n'10.0.0.5']", `x.toml:3: allow: "10.0.0.5" has no port after its host: use HOST:PORT or HOST:PORT/udp, such as "gitlab.example.com:443" or "[fd00::/8]:53/udp"`},
		{"allow twice", "allow = ['gitlab.example.com:443',\n'GitLab.example.com:443/tcp']", `x.toml:2: allow: "GitLab.example.com:443/tcp" is listed twice: remove one`},
		{"allow and the host's network", "network = 'host'\nallow = ['10.0.0.5:22']", `x.toml:2: allow is of no effect with network = "host": leave it out, or use network = "private"`},
		{"resolver and no network", "resolver = '10.0.0.53'\nnetwork = 'none'", `x.toml:1: resolver is of no effect with network = "none": leave it out, or use network = "private"`},
		{"allow and an unknown network", "network = 'bridge'\nallow = ['10.0.0.5:22']", `x.toml:1: network "bridge": use private, host or none`},
		{"resolver with a port", "resolver = '10.0.0.53:53'", `x.toml:1: resolver "10.0.0.53:53": ` + resolverHelp},
		{"resolver by name", "resolver = 'dns.example.com'", `x.toml:1: resolver "dns.example.com": ` + resolverHelp},
		{"systemd-resolved", "resolver = '127.0.0.53'", `x.toml:1: resolver "127.0.0.53" is in 127.0.0.0/8: a container has a localhost of its own: use another of the host's addresses`},
		{"any resolver", "resolver = '::'", `x.toml:1: resolver "::" is in ::/128: it stands for any address: use that of one host`},
		{"multicast resolver", "resolver = '224.0.0.251'", `x.toml:1: resolver "224.0.0.251" is in 224.0.0.0/4: multicast does not leave a container: use the address of one host`},
		{"resolver with a zone", "resolver = 'fe80::1%eth0'", `x.toml:1: resolver "fe80::1%eth0" has a zone, which is an interface of one machine: leave out %eth0`},
		{"mapped resolver", "resolver = '::ffff:10.0.0.53'", `x.toml:1: resolver "::ffff:10.0.0.53" is IPv4 in the form of IPv6: use IPv4's own, as in 10.0.0.53`},
		{"root", "\n\n\n\n\n[user]\nuid = 0", `x.toml:7: user.uid is 0: ` + idHelp},
		{"system group", "user.gid = 999", `x.toml:1: user.gid is 999: ` + idHelp},
		{"uid above the range", "user.uid = 60000", `x.toml:1: user.uid is 60000: ` + idHelp},
		{"uid that would wrap", "user.uid = 4294976296", `x.toml:1: user.uid is 4294976296: use a number that fits 32 bits`},
		{"no such port", "[ssh]\nlisten = '127.0.0.1:99999'", `x.toml:2: ssh.listen "127.0.0.1:99999": ` + listenHelp},
		{"port zero", "ssh.listen = '127.0.0.1:0'", `x.toml:1: ssh.listen "127.0.0.1:0": ` + listenHelp},
		{"only a port", "ssh.listen = '24'", `x.toml:1: ssh.listen "24": ` + listenHelp},
		{"host name", "ssh.listen = 'localhost:24'", `x.toml:1: ssh.listen "localhost:24": ` + listenHelp},
		{"no address", "ssh.listen = ''", `x.toml:1: ssh.listen "": ` + listenHelp},
		{"all addresses", "ssh.listen = '0.0.0.0:24'", `x.toml:1: ssh.listen "0.0.0.0:24": ` + outside},
		{"address with a zone", "ssh.listen = '[::1%lo]:24'", `x.toml:1: ssh.listen "[::1%lo]:24": ` + plain},
		{"mapped address", "ssh.listen = '[::ffff:127.0.0.1]:24'", `x.toml:1: ssh.listen "[::ffff:127.0.0.1]:24": ` + plain},
		{"clients of a loopback address", "ssh.from = ['10.0.0.5']", `x.toml:1: ssh.from is of no effect, as ssh.listen is 127.0.0.1:24: leave it out, or listen on another address`},
		{"client that is none", "[ssh]\nlisten = '10.0.0.1:24'\nfrom = ['lb']", `x.toml:3: ssh.from: "lb" is no IP address: use one without a port, such as "10.0.0.5"`},
		{"client with too many bits", "[ssh]\nlisten = '10.0.0.1:24'\nfrom = ['10.0.0.5/24']", `x.toml:3: ssh.from "10.0.0.5/24": use the network itself, "10.0.0.0/24", or one address without a slash`},
		{"client of another family", "[ssh]\nlisten = '10.0.0.1:24'\nfrom = ['fd00::/8']", `x.toml:3: ssh.from "fd00::/8" can't connect to 10.0.0.1:24: use addresses of the same family, or listen on [::]`},
		{"client twice", "[ssh]\nlisten = '10.0.0.1:24'\nfrom = ['10.0.0.5', '10.0.0.5/32']", `x.toml:3: ssh.from "10.0.0.5/32" is listed twice: remove one`},
		{"clients as text", "[ssh]\nfrom = '10.0.0.5'", `x.toml:2: ssh.from is a string: use a list, such as ["10.0.0.5", "10.1.0.0/16"]`},
		{"rate for nobody", "ssh.rate = 5", `x.toml:1: ssh.rate is of no effect without ssh.from: leave it out`},
		{"absurd rate", "[ssh]\nlisten = '10.0.0.1:24'\nfrom = ['10.0.0.5']\nrate = -1", `x.toml:4: ssh.rate is -1: use 1 to 10000 connections in a second`},
		{"agent on the same port", "ssh.agent = 24", `x.toml:1: ssh.agent is 24: use another port than ssh.listen, from 1 to 65535`},
		{"canaries that nobody can ask", "canaries = ['10.0.0.11']", `x.toml:1: canaries: without ssh.agent nobody can ask them: set it, to the same port on all hosts`},
		{"canary twice", "canaries = ['10.0.0.11', '10.0.0.11']\nssh.agent = 25", `x.toml:1: canaries: "10.0.0.11" is listed twice: remove one`},
		{"no CPU", "limits.cpu_quota = '0%'", `x.toml:1: limits.cpu_quota "0%": ` + percentHelp},
		{"CPU without a sign", "limits.cpu_quota = '25'", `x.toml:1: limits.cpu_quota "25": ` + percentHelp},
		{"negative CPU", "limits.cpu_quota = '-1%'", `x.toml:1: limits.cpu_quota "-1%": ` + percentHelp},
		{"absurd CPU", "limits.cpu_quota = '1000001%'", `x.toml:1: limits.cpu_quota is 1000001%: use 1% to 1000000% of one core`},
		{"size of another unit", "limits.memory_max = '256MB'", `x.toml:1: limits.memory_max "256MB": ` + sizeHelp},
		{"size without a number", "limits.memory_max = 'M'", `x.toml:1: limits.memory_max "M": ` + sizeHelp},
		{"size zero", "limits.memory_max = '0'", `x.toml:1: limits.memory_max "0": ` + sizeHelp},
		{"size that overflows", "limits.memory_max = '8388608T'", `x.toml:1: limits.memory_max "8388608T": ` + sizeHelp},
		{"little memory", "limits.memory_max = '31M'", `x.toml:1: limits.memory_max is 31M: use 32M or more, sshd and a shell have to fit`},
		{"little memory_high", "limits.memory_high = '128'", `x.toml:1: limits.memory_high is 128: use 32M or more, sshd and a shell have to fit`},
		{"memory_high above memory_max", "[limits]\nmemory_high = '1G'\nmemory_max = '256M'", `x.toml:2: limits.memory_high is 1G, more than limits.memory_max, 256M: use at most as much`},
		{"home as large as memory", "[limits]\nhome_size = '256M'\nmemory_max = '256M'", `x.toml:2: limits.home_size is 256M, not less than limits.memory_max, 256M: use less: the home is memory, and a full home must be ENOSPC, not the OOM killer`},
		{"/tmp as large as memory", "[limits]\ntmp_size = '256M'\nmemory_max = '256M'", `x.toml:2: limits.tmp_size is 256M, not less than limits.memory_max, 256M: use less: /tmp is memory, and a full one must be ENOSPC, not the OOM killer`},
		{"little /tmp", "limits.tmp_size = '16'", `x.toml:1: limits.tmp_size is 16: use 1M or more, programs expect to write there`},
		{"little home", "limits.home_size = '16'", `x.toml:1: limits.home_size is 16: use 1M or more, the template is copied into it`},
		{"little home on disk", "home = 'disk'\nlimits.home_size = '8M'", `x.toml:2: limits.home_size is 8M: use 16M or more, an ext4 file system has to fit`},
		{"few tasks", "limits.tasks_max = 7", `x.toml:1: limits.tasks_max is 7: use 8 or more, sshd itself needs some`},
		{"negative tasks", "limits.tasks_max = -1", `x.toml:1: limits.tasks_max is -1: use 8 or more, sshd itself needs some`},
		{"no time", "limits.lifetime = '0s'", `x.toml:1: limits.lifetime "0s": ` + durationHelp},
		{"empty time", "limits.start_timeout = ''", `x.toml:1: limits.start_timeout "": ` + durationHelp},
		{"negative time", "limits.start_timeout = '-5s'", `x.toml:1: limits.start_timeout "-5s": ` + durationHelp},
		{"time in days", "limits.lifetime = '1d'", `x.toml:1: limits.lifetime "1d": ` + durationHelp},
		{"part of a second", "limits.lifetime = '1500ms'", `x.toml:1: limits.lifetime "1500ms": ` + durationHelp},

		{"many at once", "uid = 1\nconcurrency = 0\n[ssh]\nlisten = 24\n[limits]\ntasks_max = 1\nmemory_max = 'lots'\n", strings.Join([]string{
			`x.toml:1: unknown key "uid": did you mean "user.uid"?`,
			`x.toml:2: concurrency is 0: use 1 to 1000`,
			`x.toml:4: ssh.listen is an integer: use text in quotes, such as "127.0.0.1:24"`,
			`x.toml:6: limits.tasks_max is 1: use 8 or more, sshd itself needs some`,
			`x.toml:7: limits.memory_max "lots": ` + sizeHelp,
		}, "\n")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse("x.toml", []byte(test.in))
			if err == nil {
				t.Fatalf("got %+v, want error %q", got, test.want)
			}
			if err.Error() != test.want {
				t.Errorf("got  %s\nwant %s", err, test.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	if got, err := Load(""); err != nil || !reflect.DeepEqual(got, Default()) {
		t.Errorf("no file: got %+v, %v, want the defaults", got, err)
	}
	_, err := Load("php.toml")
	want := "open php.toml: no such file or directory: name a spec that exists, or none for ephemeral-builder.toml or the defaults"
	if err == nil || err.Error() != want || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("named file: got %v, want %s", err, want)
	}

	write(File, `name = "here"`)
	if got, err := Load(""); err != nil || got.Name != "here" {
		t.Errorf("file in the directory: got name %q, %v, want %q", got.Name, err, "here")
	}
	write("php.toml", `name = "php"`)
	if got, err := Load(filepath.Join(dir, "php.toml")); err != nil || got.Name != "php" {
		t.Errorf("named file: got name %q, %v, want %q", got.Name, err, "php")
	}
	write(File, `nam = "here"`)
	want = `ephemeral-builder.toml:1: unknown key "nam": did you mean "name"?`
	if _, err := Load(""); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := Load(dir); err == nil {
		t.Error("a directory was loaded")
	}
}

func TestJSON(t *testing.T) {
	s := Default()
	s.Packages = []string{"openssh-server"}
	s.Arch, s.Files, s.Hooks, s.Setuid = "arm64", "files", []string{"hooks/a"}, []string{"/usr/bin/sudo"}
	s.Sources = []Source{{"http://h", "sid", []string{"main"}, "k.asc"}}
	s.Network, s.Allow, s.Resolver = NetworkPrivate, []string{"10.0.0.5:22"}, netip.MustParseAddr("10.0.0.53")
	s.Start, s.Root, s.Home = StartWarm, RootSudo, HomeDisk
	s.Limits = Limits{CPUQuota: 25, MemoryMax: 256 << 20, TasksMax: 64, StartTimeout: s.Limits.StartTimeout, Lifetime: s.Limits.Lifetime}
	want := `{"name":"ephemeral-builder","suite":"stable","mirror":"","arch":"arm64","packages":["openssh-server"],` +
		`"sources":[{"uri":"http://h","suite":"sid","components":["main"],"key":"k.asc"}],` +
		`"files":"files","hooks":["hooks/a"],"setuid":["/usr/bin/sudo"],"concurrency":4,"start":"warm",` +
		`"network":"private","allow":["10.0.0.5:22"],"resolver":"10.0.0.53","root":"sudo","home":"disk",` +
		`"user":{"uid":9000,"gid":9000},"ssh":{"listen":"127.0.0.1:24"},` +
		`"limits":{"cpu_quota":"25%","memory_high":"","memory_max":"256M","tasks_max":64,"home_size":"","tmp_size":"","start_timeout":"30s","lifetime":"2h"}}`
	got, err := json.Marshal(s)
	if err != nil || string(got) != want {
		t.Fatalf("got  %s, %v\nwant %s", got, err, want)
	}
	var back Spec
	if err := json.Unmarshal(got, &back); err != nil || !reflect.DeepEqual(back, s) {
		t.Errorf("got %+v, %v, want %+v", back, err, s)
	}

	got, err = json.Marshal(Default())
	if err != nil || strings.Contains(string(got), "allow") || strings.Contains(string(got), "resolver") {
		t.Errorf("got %s, %v, want nothing of what is not set", got, err)
	}
	back = Spec{}
	if err := json.Unmarshal(got, &back); err != nil || !reflect.DeepEqual(back, Default()) {
		t.Errorf("got %+v, %v, want %+v", back, err, Default())
	}
}

// A field that settings forgets would come back as an unknown key.
func TestTOML(t *testing.T) {
	roundTrip(t, Default())
	s := Default()
	s.Allow, s.Resolver = []string{"gitlab.example.com:443", "[fd00::/8]:53/udp"}, netip.MustParseAddr("fd00::53")
	s.Start = StartWarm
	s.Root, s.Packages, s.Home = RootSudo, []string{"openssh-server", "sudo"}, HomeDisk
	s.SSH = SSH{netip.MustParseAddrPort("0.0.0.0:24"), []netip.Prefix{netip.MustParsePrefix("10.0.0.5/32")}, 9, 25}
	s.Canaries = []netip.Addr{netip.MustParseAddr("10.0.0.11")}
	roundTrip(t, s)
}

func roundTrip(t *testing.T, s Spec) {
	t.Helper()
	text, err := toml.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Parse("again.toml", text); err != nil || !same(got, s) {
		t.Errorf("got %+v, %v, want %+v", got, err, s)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"",
		"name = 'php'\nsuite = 'bookworm'\nmirror = 'file:///srv'\nconcurrency = 2\npackages = ['openssh-server', 'git']",
		"[user]\nuid = 9000\ngid = 9000\n[ssh]\nlisten = '[::1]:24'",
		"[limits]\ncpu_quota = '25%'\nmemory_high = '128M'\nmemory_max = '256M'\ntasks_max = 64\nhome_size = '64M'\nstart_timeout = '1m'\nlifetime = '2h'",
		"user = {uid = 0, \"x\".y = [[1], {a = 2}]}\n[[limit]]\na.b.c = 1\n[[limit]]",
		"packages = [\n1, [], {}, 'a',\n]\nname = php",
		"arch = 'arm64'\nfiles = 'files'\nhooks = ['a', '../b']\nsetuid = ['/usr/bin/sudo']\n[[sources]]\nuri = 'file:///srv'\nsuite = 'sid'\n[[sources]]\nuri = 'https://h'\nsuite = 'a/b'\ncomponents = ['c']\nkey = 'k.asc'",
		"network = 'private'\nallow = ['gitlab.example.com:443', '10.0.0.0/24:5432/tcp', '[fd00::5]:53/udp']\nresolver = 'fd00::53'\nroot = 'sudo'\nhome = 'disk'",
		"network = 'host'\nallow = [\n'[::1%lo]:0', '*:1', '10.0.0.1/8:1']\nresolver = '127.0.0.53'\nroot = 'x'\nhome = ''",
		"sources = [\n{uri = 'http://h', suite = 1},\n[], {a.b = [{c = 1}]}]\n[[x]]\n[x.y]\n[[x.z]]\nq = 1",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("fuzz.toml", data)
		if err == nil {
			if err := s.Validate(); err != nil {
				t.Error(err)
			}
			roundTrip(t, s)
			return
		}
		errs := []error{err}
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			errs = joined.Unwrap()
		}
		for _, err := range errs {
			var p problem
			if !errors.As(err, &p) || p.line < 1 || p.line > strings.Count(string(data), "\n")+1 {
				t.Errorf("no line of the file in %v", err)
			}
		}
	})
}
