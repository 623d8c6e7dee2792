package doctor

import (
	"strings"
	"testing"

	"ephemeral-builder/image/spec"
	"ephemeral-builder/units"
	"ephemeral-builder/units/runner"
)

func TestJudge(t *testing.T) {
	s := subject{spec.Default(), units.KeysOf(spec.Default().Name)}
	good := func() runner.Runner {
		r := runner.Runner{Name: "eb", Executor: "ssh", Limit: 4, BuildsDir: "/home/builder/builds", CacheDir: "/home/builder/cache"}
		r.SSH.Host, r.SSH.Port = "127.0.0.1", "24"
		r.SSH.IdentityFile, r.SSH.KnownHosts = s.keys.Runner, s.keys.KnownHosts
		return r
	}
	for _, test := range []struct {
		name   string
		change func(*runner.Config)
		state  State
		want   string
	}{
		{"all well", func(*runner.Config) {}, OK, "4 jobs at once, for 4 slots"},
		{"others too", func(c *runner.Config) { c.Runners = append(c.Runners, runner.Runner{Name: "x", Executor: "docker"}) }, OK, "4 jobs"},
		{"none", func(c *runner.Config) { c.Runners[0].SSH.Port = "25" }, Warn, "none in"},
		{"no limit", func(c *runner.Config) { c.Runners[0].Limit = 0 }, Fail, "limit is 0 for 4 slots"},
		{"limit above the slots", func(c *runner.Config) { c.Runners[0].Limit = 5 }, Fail, "limit is 5 for 4 slots"},
		{"relative cache", func(c *runner.Config) { c.Runners[0].CacheDir = "" }, Fail, "not both absolute"},
		{"any host key", func(c *runner.Config) { c.Runners[0].SSH.AnyHostKey = true }, Fail, "any host key"},
		{"other key", func(c *runner.Config) { c.Runners[0].SSH.IdentityFile = "/root/key" }, Fail, "not the builder's"},
		{"together too many", func(c *runner.Config) { c.Runners = append(c.Runners, good()) }, Fail, "8 jobs at once, for 4 slots"},
		{"too few at once", func(c *runner.Config) { c.Concurrent = 1 }, Warn, "concurrent is 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := runner.Config{Concurrent: 4, Runners: []runner.Runner{good()}}
			test.change(&c)
			found := judge(c, s)
			if f := found[0]; f.State != test.state || !strings.Contains(f.What, test.want) || (f.State != OK) != (f.Why != "" && f.Do != "") {
				t.Errorf("found %+v, want %s with %q", found, test.state, test.want)
			}
		})
	}
}

func TestPrint(t *testing.T) {
	all := []Finding{{"systemd", OK, "version 257", "", ""}, {"disk", Fail, "it is full", "images need it", "free some"}}
	var text, json strings.Builder
	if err := Print(&text, all, false); err != nil || text.String() != "ok    systemd          version 257\nfail  disk             it is full\n      images need it\n      → free some\n" {
		t.Errorf("%v\n%s", err, text.String())
	}
	if err := Print(&json, all, true); err != nil || !strings.Contains(json.String(), `"state": "fail"`) {
		t.Errorf("%v\n%s", err, json.String())
	}
	if n := Failed(all); n != 1 {
		t.Errorf("%d failed, want 1", n)
	}
}

func TestJudgeSystemd(t *testing.T) {
	for said, want := range map[string]string{
		"systemd 252 (252.39-1~deb12u2)\n+PAM": "ok version 252.39-1~deb12u2, without systemd-sysupdate: images come by install only",
		"systemd 257 (257.13-1~deb13u1)\n+PAM": "ok version 257.13-1~deb13u1",
		"systemd 247 (247.3-7+deb11u7)\n":      "fail version 247.3-7+deb11u7",
		"systemd 258 (258.4-1)\n":              "warn version 258.4-1: any user of this host can end PID 1, warn version 258.4-1: units with Delegate=yes may fail to start again",
		"systemd 259 (259.5-1)\n":              "warn version 259.5-1: units with Delegate=yes may fail to start again",
		"systemd 262 (262)\n":                  "warn version 262",
		"something else\n":                     "warn systemctl --version says \"something else\\n\"",
	} {
		var got []string
		for _, f := range judgeSystemd(said) {
			got = append(got, string(f.State)+" "+f.What)
		}
		if got := strings.Join(got, ", "); got != want {
			t.Errorf("%q: %s, want %s", said, got, want)
		}
	}
}
