package units

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"ephemeral-builder/image/spec"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

var host = Host{Memory: 8 << 30, CPUs: 4}

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
	units, err := Render(s, limits)
	if err != nil {
		t.Fatal(err)
	}
	return units
}

func TestRender(t *testing.T) {
	for name, s := range map[string]spec.Spec{
		"default":  spec.Default(),
		"tutorial": load(t, "../testdata/specs/tutorial.toml"),
	} {
		t.Run(name, func(t *testing.T) {
			for _, unit := range render(t, s) {
				golden := filepath.Join("testdata", name, unit.Name)
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
	units := render(t, spec.Default())
	if err := Verify(t.Context(), units); err != nil {
		t.Fatal(err)
	}
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
		want string // CPUQuota MemoryMax HomeSize TasksMax, or an error
	}{
		{"fair shares", host, spec.Default(), "100% 1638M 819M 1638"},
		{"small host", Host{Memory: 1 << 30, CPUs: 1}, spec.Default(), "25% 204M 102M 204"},
		{"large host", Host{Memory: 1 << 40, CPUs: 128}, spec.Default(), "3200% 209715M 104857M 4096"},
		{"what is set stays", host, load(t, "../testdata/specs/tutorial.toml"), "25% 256M 128M 64"},
		{"memory_high above the share", Host{Memory: 1 << 30, CPUs: 2}, with(func(s *spec.Spec) { s.Limits.MemoryHigh = 512 << 20 }), "50% 512M 256M 512"},
		{"too many for the host", Host{Memory: 1 << 30, CPUs: 2}, with(func(s *spec.Spec) { s.Concurrency = 100 }),
			"1G of memory shared by 100 containers is 8M for each, too little for sshd: lower concurrency in the spec"},
		{"home above the share", Host{Memory: 1 << 30, CPUs: 2}, with(func(s *spec.Spec) { s.Limits.HomeSize = 1 << 30 }),
			"limits.home_size is 1G, but this host's share of memory is 204M for each container: lower home_size or set limits.memory_max"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, err := test.host.Limits(test.spec)
			got := strings.Join([]string{l.CPUQuota.String(), l.MemoryMax.String(), l.HomeSize.String(), strconv.Itoa(l.TasksMax)}, " ")
			if err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
