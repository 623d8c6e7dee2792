package runner

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func section() Section {
	return Section{
		Name: "tools", URL: "https://gitlab.example.com/", Token: "glrt-example", Limit: 4,
		Host: "127.0.0.1", Port: 24, User: "builder", IdentityFile: "/etc/eb/runner", KnownHosts: "/etc/eb/known_hosts",
		BuildsDir: "/home/builder/builds", CacheDir: "/home/builder/cache",
	}
}

const written = `[[runners]]
  name = "tools"
  url = "https://gitlab.example.com/"
  token = "glrt-example"
  executor = "ssh"
  limit = 4
  request_concurrency = 2
  builds_dir = "/home/builder/builds"
  cache_dir = "/home/builder/cache"
  [runners.ssh]
    user = "builder"
    host = "127.0.0.1"
    port = "24"
    identity_file = "/etc/eb/runner"
    known_hosts_file = "/etc/eb/known_hosts"
    disable_strict_host_key_checking = false
`

const other = `[[runners]]
  name = "docker" # mine
  url = "https://gitlab.example.com/"
  token = "glrt-other"
  executor = "docker"
  [runners.docker]
    image = "debian:13" # mind the "=" and [brackets]
`

func TestMerge(t *testing.T) {
	for _, test := range []struct{ name, old, want string }{
		{"new file", "", "concurrent = 4\n\n" + written},
		{"empty of a new runner", "concurrent = 1\ncheck_interval = 0\n", "concurrent = 4\ncheck_interval = 0\n\n" + written},
		{"enough at once", "concurrent = 9 # for all\n\n" + other, "concurrent = 9 # for all\n\n" + other + "\n" + written},
		{"no newline at the end", "concurrent = 9", "concurrent = 9\n\n" + written},
		{
			"comments and other runners",
			"# how many\nconcurrent = 2 # at most\n\n" + other + "\n# the builder\n[[runners]] # here\n" +
				"  executor = 'ssh' # as it is\n  limit = 9 # too many\n  request_concurrency = 7\n  name = \"tools\"\n\n  # the secret\n  token = \"glrt-old\"\n  environment = [\"A=1\", \"B=[2]\"]\n" +
				"  [runners.cache]\n    MaxUploadedArchiveSize = 0\n\n# the last\n" + strings.ReplaceAll(other, `"docker"`, `"last"`),
			"# how many\nconcurrent = 4 # at most\n\n" + other + "\n# the builder\n[[runners]] # here\n" +
				"  executor = 'ssh' # as it is\n  limit = 4 # too many\n  request_concurrency = 7\n  name = \"tools\"\n\n  # the secret\n  token = \"glrt-example\"\n  environment = [\"A=1\", \"B=[2]\"]\n" +
				"  url = \"https://gitlab.example.com/\"\n  builds_dir = \"/home/builder/builds\"\n  cache_dir = \"/home/builder/cache\"\n" +
				"  [runners.cache]\n    MaxUploadedArchiveSize = 0\n" +
				written[strings.Index(written, "  [runners.ssh]"):] + "\n# the last\n" + strings.ReplaceAll(other, `"docker"`, `"last"`),
		},
		{
			"dotted keys",
			"concurrent = 4\n[[runners]]\nname = \"tools\"\nurl = \"https://gitlab.example.com/\"\ntoken = \"glrt-example\"\nexecutor = \"ssh\"\nlimit = 4\nrequest_concurrency = 2\nbuilds_dir = \"/home/builder/builds\"\ncache_dir = \"/home/builder/cache\"\n" +
				"ssh.user = \"root\"\nssh.host = \"127.0.0.1\"\nssh.port = \"24\"\nssh.identity_file = \"/etc/eb/runner\"\nssh.disable_strict_host_key_checking = true\n",
			"concurrent = 4\n[[runners]]\nname = \"tools\"\nurl = \"https://gitlab.example.com/\"\ntoken = \"glrt-example\"\nexecutor = \"ssh\"\nlimit = 4\nrequest_concurrency = 2\nbuilds_dir = \"/home/builder/builds\"\ncache_dir = \"/home/builder/cache\"\n" +
				"ssh.user = \"builder\"\nssh.host = \"127.0.0.1\"\nssh.port = \"24\"\nssh.identity_file = \"/etc/eb/runner\"\nssh.disable_strict_host_key_checking = false\n  ssh.known_hosts_file = \"/etc/eb/known_hosts\"\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, changes, err := Merge([]byte(test.old), section())
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != test.want {
				t.Errorf("it is\n%s\nwant\n%s", got, test.want)
			}
			if len(changes) == 0 {
				t.Error("it says that nothing has changed")
			}
			again, changes, err := Merge(got, section())
			if err != nil || len(changes) > 0 || string(again) != string(got) {
				t.Errorf("a second time there are changes: %q, %v\n%s", changes, err, again)
			}
		})
	}
}

// What the command line leaves open stays.
func TestMergeKeeps(t *testing.T) {
	s := section()
	s.URL, s.Token = "", ""
	got, changes, err := Merge([]byte("concurrent = 4\n"+strings.Replace(written, "limit = 4", "limit = 2", 1)), s)
	if err != nil || string(got) != "concurrent = 4\n"+written || len(changes) != 1 || changes[0] != "limit = 4" {
		t.Errorf("%v, %q\n%s", err, changes, got)
	}
}

// A changed token is told, and not shown.
func TestMergeKeepsSecrets(t *testing.T) {
	_, changes, err := Merge([]byte("concurrent = 4\n"+strings.Replace(written, "glrt-example", "glrt-before", 1)), section())
	if err != nil || len(changes) != 1 || strings.Contains(fmt.Sprint(changes), "glrt") {
		t.Errorf("%v, %q", err, changes)
	}
}

func TestMergeRefuses(t *testing.T) {
	bare := section()
	bare.Token = ""
	for _, test := range []struct {
		name, old string
		s         Section
		want      string
	}{
		{"no TOML", "concurrent = 4\n[[runners]\n", section(), "line 2"},
		{"other types", "concurrent = \"four\"\n", section(), "line 1"},
		{"another executor", strings.Replace(other, `"docker" #`, `"tools" #`, 1), section(), `has the executor "docker"`},
		{"the name twice", written + written, section(), "two runners"},
		{"inline runners", "runners = [{name = \"docker\"}]\n", section(), "not tables"},
		{"one table", "[runners]\nname = \"docker\"\n", section(), "are a table"},
		{"inline table", "[[runners]]\nname = \"tools\"\nexecutor = \"ssh\"\nssh = {user = \"root\"}\n", section(), "inline table"},
		{"no token", "", bare, "give its token"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, _, err := Merge([]byte(test.old), test.s)
			if err == nil || !strings.Contains(err.Error(), test.want) || got != nil {
				t.Errorf("the error is %v, want one with %q; merged:\n%s", err, test.want, got)
			}
		})
	}
}

// The runner puts a colon and the port behind a host.
func TestForBuilder(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:24", "[::1]:2424"} {
		address := netip.MustParseAddrPort(listen)
		section := ForBuilder("eb", address.Addr().String(), address.Port(), 4)
		if dialled := fmt.Sprintf("%s:%d", section.Host, section.Port); dialled != listen {
			t.Errorf("the runner connects to %s, and not to %s", dialled, listen)
		}
		c, err := Read([]byte(section.String()))
		if err != nil || !c.Runners[0].Uses(address) {
			t.Errorf("%s: %v\n%s", listen, err, section)
		}
	}
}

func TestQuote(t *testing.T) {
	s := section()
	s.Name = "a \"quoted\" \\ na\nme\x7f é"
	got, _, err := Merge(nil, s)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Read(got)
	if err != nil || len(c.Runners) != 1 || c.Runners[0].Name != s.Name {
		t.Errorf("%+v, %v", c, err)
	}
}

func FuzzMerge(f *testing.F) {
	f.Add("concurrent = 2\n" + other + written)
	f.Add(other + "# end")
	f.Add("[session_server]\n session_timeout = 1800\n[[runners]]\nname='tools'\nexecutor='ssh'\nssh.user='x'")
	f.Fuzz(func(t *testing.T, old string) {
		got, _, err := Merge([]byte(old), section())
		if err != nil {
			if strings.Contains(err.Error(), "fault of ephemeral-builder") {
				t.Errorf("%v\n%s", err, old)
			}
			return
		}
		again, changes, err := Merge(got, section())
		if err != nil || len(changes) > 0 || string(again) != string(got) {
			t.Errorf("a second time: %v %q\n%s", err, changes, again)
		}
	})
}
