package units

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"ephemeral-builder/image/spec"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

var host = Host{Memory: 8 << 30, CPUs: 4, Disk: 100 << 30, Filters: true}

func load(t *testing.T, path string) spec.Spec {
	t.Helper()
	s, err := spec.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func render(t *testing.T, s spec.Spec) []File {
	t.Helper()
	limits, err := host.Limits(s)
	if err != nil {
		t.Fatal(err)
	}
	units, err := Render(s, host, limits, 0, len(s.Canaries) > 0)
	if err != nil {
		t.Fatal(err)
	}
	return units
}

// specs are of each kind one.
func specs(t *testing.T) map[string]spec.Spec {
	return map[string]spec.Spec{
		"default":  spec.Default(),
		"tutorial": load(t, "../testdata/specs/tutorial.toml"),
		"large":    load(t, "testdata/large.toml"),
		"offline":  load(t, "testdata/offline.toml"),
		"warm":     load(t, "testdata/warm.toml"),
		"exposed":  load(t, "testdata/exposed.toml"),
		"fleet":    load(t, "testdata/fleet.toml"),
	}
}

func TestRender(t *testing.T) {
	for name, s := range specs(t) {
		t.Run(name, func(t *testing.T) {
			for _, unit := range render(t, s) {
				if strings.HasPrefix(string(unit.Text), "#!") {
					continue // as it is in scripts
				}
				golden := filepath.Join("testdata", name, filepath.Base(unit.Name))
				if *update {
					if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(golden, unit.Text, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(unit.Text, want) {
					t.Errorf("%s differs from %s, see go test ./units -update:\n%s", unit.Name, golden, unit.Text)
				}
			}
		})
	}
}

// The units that a new user gets must be what systemd itself accepts.
func TestVerify(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("needs systemd-analyze: apt-get install systemd")
	}
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		t.Skip("needs systemd-nspawn: apt-get install systemd-container")
	}
	for name, s := range specs(t) {
		if err := Verify(t.Context(), render(t, s)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	units := render(t, spec.Default())
	units = slices.DeleteFunc(units, func(f File) bool { return !f.isUnit() })
	for i, unit := range units {
		broken := append([]File(nil), units...)
		broken[i].Text = append(bytes.Clone(unit.Text), "\nNoSuchKey=1\n"...)
		err := Verify(t.Context(), broken)
		if err == nil || !strings.Contains(err.Error(), "NoSuchKey") {
			t.Errorf("%s with an unknown key: got %v, want an error that names it", unit.Name, err)
		}
	}
}

func TestLimits(t *testing.T) {
	with := func(change func(*spec.Spec)) spec.Spec {
		s := spec.Default()
		change(&s)
		return s
	}
	tests := []struct {
		name string
		host Host
		spec spec.Spec
		want string // CPUQuota MemoryMax HomeSize TmpSize TasksMax, or an error
	}{
		{"fair shares", host, spec.Default(), "100% 1638M 819M 409M 1638"},
		{"small host", Host{Memory: 1 << 30, CPUs: 1}, spec.Default(), "25% 204M 102M 51M 204"},
		{"large host", Host{Memory: 1 << 40, CPUs: 128}, spec.Default(), "3200% 209715M 104857M 52428M 4096"},
		{"what is set stays", host, load(t, "../testdata/specs/tutorial.toml"), "25% 256M 128M 64M 64"},
		{"memory_high above the share", Host{Memory: 1 << 30, CPUs: 2}, with(func(s *spec.Spec) { s.Limits.MemoryHigh = 512 << 20 }), "50% 512M 256M 128M 512"},
		{"too many for the host", Host{Memory: 1 << 30, CPUs: 2}, with(func(s *spec.Spec) { s.Concurrency = 100 }),
			"1G of memory shared by 100 containers is 8M for each, too little for sshd: lower concurrency in the spec"},
		{"home above the share", Host{Memory: 1 << 30, CPUs: 2}, with(func(s *spec.Spec) { s.Limits.HomeSize = 1 << 30 }),
			"limits.home_size is 1G, but this host's share of memory is 204M for each container: lower home_size or set limits.memory_max"},
		{"home on the disk", host, with(func(s *spec.Spec) { s.Home = spec.HomeDisk }), "100% 1638M 12800M 409M 1638"},
		{"home larger than the disk", host, with(func(s *spec.Spec) { s.Home, s.Limits.HomeSize = spec.HomeDisk, 50<<30 }),
			"limits.home_size is 50G for each of 4 containers, more than the 100G of the disk with /var/lib/container: lower one of the two"},
		{"disk too small to share", Host{Memory: 8 << 30, CPUs: 4, Disk: 64 << 20}, with(func(s *spec.Spec) { s.Home = spec.HomeDisk }),
			"half of a disk of 64M shared by 4 containers is 8M for each, too little for a file system: lower concurrency in the spec, or set limits.home_size"},
		{"/tmp above the share", Host{Memory: 1 << 30, CPUs: 2}, with(func(s *spec.Spec) { s.Limits.TmpSize = 1 << 30 }),
			"limits.tmp_size is 1G, but this host's share of memory is 204M for each container: lower tmp_size or set limits.memory_max"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, err := test.host.Limits(test.spec)
			got := strings.Join([]string{l.CPUQuota.String(), l.MemoryMax.String(), l.HomeSize.String(), l.TmpSize.String(), strconv.Itoa(l.TasksMax)}, " ")
			if err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// What is printed to paste must be what the runner's own parser would read.
func TestNextIsConfigToml(t *testing.T) {
	s := spec.Default()
	keys := KeysOf(s.Name)
	keys.KnownHosts = filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(keys.KnownHosts, []byte("[127.0.0.1]:24 ssh-ed25519 AAAA\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	text, err := Next(s, keys)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = strings.Cut(text, "config.toml:\n")
	text, command, _ := strings.Cut(text, "\nor let the runner")
	var config struct {
		Concurrent int
		Runners    []struct {
			Executor  string
			Limit     int
			BuildsDir string `toml:"builds_dir"`
			CacheDir  string `toml:"cache_dir"`
			SSH       struct {
				User, Host, Port string
				IdentityFile     string `toml:"identity_file"`
				KnownHostsFile   string `toml:"known_hosts_file"`
				Lax              *bool  `toml:"disable_strict_host_key_checking"`
			} `toml:"ssh"`
		}
	}
	if err := toml.Unmarshal([]byte(text), &config); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	if len(config.Runners) != 1 {
		t.Fatalf("got %d runners, want 1", len(config.Runners))
	}
	r := config.Runners[0]
	if config.Concurrent != 4 || r.Limit != 4 || r.Executor != "ssh" || r.SSH.User != "builder" || r.SSH.Host != "127.0.0.1" || r.SSH.Port != "24" ||
		r.SSH.IdentityFile != keys.Runner || r.SSH.KnownHostsFile != keys.KnownHosts || r.SSH.Lax == nil || *r.SSH.Lax ||
		!filepath.IsAbs(r.BuildsDir) || !filepath.IsAbs(r.CacheDir) {
		t.Errorf("got %+v", config)
	}
	_, command, _ = strings.Cut(command, "gitlab-runner")
	out, err := exec.Command("sh", "-c", "set --"+command+`printf '%s\n' "$@"`).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"register\n--non-interactive\n", "--executor\nssh\n", "--ssh-identity-file\n" + keys.Runner + "\n", "--cache-dir\n/home/builder/cache\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the command lacks %q:\n%s", want, out)
		}
	}
}

// Who drops what he does not know is found by his chains, and told of in his own words.
func TestClosedForwards(t *testing.T) {
	chain := func(family, table, name, hook, policy string) string {
		if hook == "" {
			return fmt.Sprintf(`{"chain": {"family": %q, "table": %q, "name": %q, "handle": 1}}`, family, table, name)
		}
		return fmt.Sprintf(`{"chain": {"family": %q, "table": %q, "name": %q, "handle": 1, "type": "filter", "hook": %q, "prio": 0, "policy": %q}}`, family, table, name, hook, policy)
	}
	for _, test := range []struct {
		name   string
		chains []string
		want   []string // remedies
	}{
		{"nobody", nil, nil},
		{"open", []string{chain("ip", "filter", "FORWARD", "forward", "accept")}, nil},
		{"our own", []string{chain("inet", "own-slots", "forward", "forward", "drop")}, nil},
		{"input only", []string{chain("inet", "filter", "input", "input", "drop")}, nil},
		{"iptables", []string{chain("ip6", "filter", "FORWARD", "forward", "drop")},
			[]string{"ip6tables -I FORWARD -i eb-+ -j ACCEPT && ip6tables -I FORWARD -o eb-+ -j ACCEPT"}},
		{"docker", []string{chain("ip", "filter", "FORWARD", "forward", "drop"), chain("ip", "filter", "DOCKER-USER", "", "")},
			[]string{"iptables -I DOCKER-USER -i eb-+ -j ACCEPT && iptables -I DOCKER-USER -o eb-+ -j ACCEPT"}},
		{"firewalld", []string{chain("inet", "firewalld", "filter_FORWARD", "forward", "accept")},
			[]string{"firewall-cmd --permanent --zone=trusted --add-interface=eb-+ && firewall-cmd --reload"}},
		{"by hand", []string{chain("inet", "filter", "fwd", "forward", "drop")},
			[]string{`nft insert rule inet filter fwd iifname "eb-*" accept && nft insert rule inet filter fwd oifname "eb-*" accept`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			listing := `{"nftables": [{"metainfo": {"version": "1.1.3", "json_schema_version": 1}}`
			for _, c := range test.chains {
				listing += ", " + c
			}
			found, err := closedForwards([]byte(listing+"]}"), "own-slots")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range found {
				got = append(got, f.remedy())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	if _, err := closedForwards([]byte("nonsense"), ""); err == nil {
		t.Error("nonsense is taken for a listing")
	}
}
