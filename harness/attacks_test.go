package harness

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

const hostileScript = `connect a

# A job tries to be root | and more.
ssh a 'echo ` + "`id`" + ` | cat'
! stderr .
! stdout root
`

func TestSuccess(t *testing.T) {
	for _, c := range []struct{ name, log, want string }{
		{"failed line", "> connect a\nFAIL: testdata/hostile-x.txtar:1: connect: refused\nmore\n",
			"succeeds: line 1, `connect a`: connect: refused"},
		{"line that only judges another", "> ! stdout root\nFAIL: testdata/hostile-x.txtar:6: unexpected match for `root`\n",
			"succeeds: line 6, `` ssh a 'echo `id` | cat' ``, then `! stdout root`: unexpected match for `root`"},
		{"something printed what looks like a failed line", "FAIL: x.txtar:4: not this\nFAIL: testdata/hostile-x.txtar:1: this\n",
			"succeeds: line 1, `connect a`: this"},
		{"leftover", "evidence is in x\n" + leftover + "container-1 of many\ncontainer-2\n# A job\nPASS\n",
			"succeeds: leaves `container-1 of many` behind"},
		{"crash", hostDown + "\n> connect a\nFAIL: testdata/hostile-x.txtar:1: connect: no result\n",
			"succeeds: line 1, `connect a`: connect: no result; " + hostDown},
		{"crash that the script did not see", hostDown + "\nPASS\n", "succeeds: " + hostDown},
		{"set-up", "FAIL: testdata/hostile-x.txtar:0: on the lab host: no route\n", ""},
		{"line that is not there", "FAIL: testdata/hostile-x.txtar:99: what\n", ""},
		{"no reason at all", "PASS\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := success(hostileScript, c.log)
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestAttackTable(t *testing.T) {
	got := attackTable(TestOptions{Kind: "vm", Suite: "trixie", Units: "tutorial"}, []attack{
		{"hostile-x", tries(hostileScript), "held"},
		{"hostile-y", tries("connect a\n"), "succeeds: line 4, `a | b`: two\nlines"},
	})
	const want = `# Attacks on the units of testdata/tutorial

In a vm lab with trixie.

| script | what it tries | outcome |
|---|---|---|
` + "| hostile-x | A job tries to be root \\| and more. | held |\n" +
		"| hostile-y |  | succeeds: line 4, `a \\| b`: two lines |\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestRunAttacks proves that each script gets its outcome, and that none fails the test.
func TestRunAttacks(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"hostile-held.txtar":  "# Held.\nexec true\n",
		"hostile-hole.txtar":  "# A hole.\n! exec true\n",
		"hostile-left.txtar":  "# Left.\nexec true\n",
		"hostile-other.txtar": "# Other.\nskip 'no such lab'\n",
		"session.txtar":       "! exec true\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	attacks, err := runAttacks(t.Context(), t, testscript.Params{Dir: dir, RequireExplicitExec: true, Setup: func(e *testscript.Env) error {
		if strings.HasSuffix(e.WorkDir, "-left") {
			e.Defer(func() {
				e.T().Log(leftover + "a process")
				e.T().FailNow()
			})
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []attack{
		{"hostile-held", "Held.", "held"},
		{"hostile-hole", "A hole.", "succeeds: line 2, `! exec true`: unexpected command success"},
		{"hostile-left", "Left.", "succeeds: leaves `a process` behind"},
		{"hostile-other", "Other.", "skipped: no such lab"},
	}
	if !slices.Equal(attacks, want) {
		t.Errorf("got %q, want %q", attacks, want)
	}
}

func TestFullIsOnAllSuites(t *testing.T) {
	err := Test(t.Context(), nil, TestOptions{Kind: "container", Suite: "trixie", Full: true})
	if err == nil || !strings.Contains(err.Error(), "without -suite") {
		t.Errorf("got %v, want an error", err)
	}
}
