package harness

import (
	"slices"
	"strings"
	"testing"
)

// TestScriptFiles proves that each script runs on one host or on a fleet, and none on both.
func TestScriptFiles(t *testing.T) {
	t.Chdir("..")
	alone, err := scriptFiles("container")
	if err != nil {
		t.Fatal(err)
	}
	inFleet, err := scriptFiles(fleetKind)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		files []string
		want  bool
		name  string
	}{
		{alone, true, "session-login"}, {alone, false, "fleet-lab"}, {inFleet, true, "fleet-lab"}, {inFleet, false, "session-login"},
	} {
		if got := slices.Contains(c.files, "testdata/"+c.name+".txtar"); got != c.want {
			t.Errorf("%s among %d scripts: got %v, want %v", c.name, len(c.files), got, c.want)
		}
	}
}

func TestFleetAddresses(t *testing.T) {
	var got []string
	for _, name := range fleetNames() {
		got = append(got, fleetAddress(name).String())
	}
	if want := "198.51.100.1/24 198.51.100.11/24 198.51.100.12/24 198.51.100.13/24"; strings.Join(got, " ") != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestFleetRefused(t *testing.T) {
	err := Test(t.Context(), nil, TestOptions{Kind: fleetKind, Units: "tutorial"})
	if err == nil || !strings.Contains(err.Error(), "for one host") {
		t.Errorf("got %v, want an error", err)
	}
	if _, err := hostKind("flock"); err == nil || !strings.Contains(err.Error(), `"vm" or "container", or "fleet"`) {
		t.Errorf("got %v, want the kinds that there are", err)
	}
}
