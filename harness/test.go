// Package harness proves the whole on throw-away hosts: it gathers what a lab is made of,
// starts labs, and runs the scripts of testdata against them.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/prereq"
	"ephemeral-builder/image/progress"

	"ephemeral-builder/harness/lab"
)

// ResultsDir gets what tests and benchmarks have to show.
const ResultsDir = "test-results"

// results is the folder for one kind of lab: JUnit files and, for each failed script, a
// folder of evidence. The next run on such a lab replaces it.
func results(o TestOptions) string {
	name := o.Kind + "-" + o.Suite
	if o.Units != "" {
		name += "-" + o.Units
	}
	return filepath.Join(ResultsDir, name)
}

// attacksFile shows in the results what hostile scripts achieve against other units than ours.
const attacksFile = "attacks.md"

// TestOptions says which lab to test on, and how much.
type TestOptions struct {
	Kind  string // "vm", "container" or "fleet"
	Suite string // Debian suite of the lab host; the first of suites if empty
	Full  bool   // on all suites, one after the other
	Run   string // regular expression of script names; all if empty

	// Units is a folder of testdata with units that take the place of ours, and with a script,
	// install, that puts them there. Then only hostile scripts run, and one that fails is a
	// finding. Empty means our own units.
	Units string
}

// suites are the Debian releases that a host may have.
var suites = []string{"trixie", "bookworm"}

// Test runs the quick Go tests, then the scripts on a lab. It runs in the project's root.
func Test(ctx context.Context, rep *progress.Reporter, o TestOptions) error {
	kind, err := hostKind(o.Kind)
	if err != nil {
		return err
	}
	on := []string{o.Suite}
	switch {
	case o.Full && o.Suite != "":
		return fmt.Errorf("-full is on all suites, %s: use it without -suite", strings.Join(suites, " and "))
	case o.Full:
		on = suites
	case o.Suite == "":
		on = suites[:1]
	}
	if o.Units != "" && o.Kind == fleetKind {
		return errors.New("hostile scripts are for one host: use -units with another kind of lab")
	}
	if o.Units != "" {
		if _, err := os.Stat(filepath.Join("testdata", o.Units, "install")); err != nil {
			return fmt.Errorf("no units to try: the only ones are -units=tutorial: %w", err)
		}
	}
	for _, o.Suite = range on {
		if err := os.RemoveAll(results(o)); err != nil {
			return err
		}
		if err := os.MkdirAll(results(o), 0o755); err != nil {
			return err
		}
	}
	if o.Units == "" { // of which they know nothing
		rep.Note("quick tests")
		o.Suite = on[0]
		if err := goTest(ctx, filepath.Join(results(o), "quick.xml"), "./..."); err != nil {
			return fmt.Errorf("quick tests: %w", err)
		}
	}
	if err := prereq.Ensure(ctx, rep, lab.Needs(kind)...); err != nil {
		return err
	}
	var failed []error
	for _, o.Suite = range on {
		if err := testScripts(ctx, rep, o); err != nil {
			failed = append(failed, fmt.Errorf("scripts on a %s lab with %s: %w", o.Kind, o.Suite, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// testScripts runs the scripts on one lab.
func testScripts(ctx context.Context, rep *progress.Reporter, o TestOptions) error {
	editions, err := testEditions()
	if err != nil {
		return err
	}
	if _, err := gather(ctx, rep, o.Suite, editions...); err != nil {
		return err
	}
	rep.Note("scripts on a %s lab with %s", o.Kind, o.Suite)
	dir := results(o)
	junit := filepath.Join(dir, "scripts.xml")
	err = goTest(ctx, junit,
		"./harness", "-count=1", "-parallel=1", "-timeout=80m", "-run=^TestScripts$/^scripts$/("+o.Run+")",
		"-lab.kind="+o.Kind, "-lab.suite="+o.Suite, "-lab.units="+o.Units, "-lab.owner="+strconv.Itoa(os.Getpid()))
	// A test that was interrupted had no time to remove its lab.
	err = errors.Join(err, closeLabs(context.WithoutCancel(ctx), filepath.Join(dir, "lab")))
	if err != nil {
		return fmt.Errorf("see %s: %w", dir, err)
	}
	// go test is content with no test at all.
	report, err := os.ReadFile(junit)
	if err != nil {
		return err
	}
	if !bytes.Contains(report, []byte(`name="TestScripts/scripts/`)) {
		return errors.New("no script ran: look at -run and at testdata")
	}
	if o.Units != "" {
		table, err := os.ReadFile(filepath.Join(dir, attacksFile))
		if err != nil {
			return err
		}
		rep.Note("%s", table)
	}
	return nil
}

// goTest runs go test with live output and a JUnit file.
func goTest(ctx context.Context, junit string, args ...string) error {
	err := command.Run(ctx, command.Cmd{
		Args:   append([]string{"go", "tool", "gotestsum", "--format=testname", "--junitfile=" + junit, "--"}, args...),
		Stdout: os.Stdout,
		Stderr: os.Stderr,
	})
	var failed *command.Error
	if errors.As(err, &failed) {
		return failed.Err // the rest stands above already
	}
	return err
}
