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

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/prereq"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/spec"

	"ephemeral-builder/harness/lab"
)

// ResultsDir gets what tests and benchmarks have to show.
const ResultsDir = "test-results"

// results is the folder for one kind of lab: JUnit files and, for each failed script, a
// folder of evidence. The next run on such a lab replaces it.
func results(kind, suite string) string { return filepath.Join(ResultsDir, kind+"-"+suite) }

// TestOptions says which lab to test on, and how much.
type TestOptions struct {
	Kind  string // "vm" or "container"
	Suite string // Debian suite of the lab host
	Run   string // regular expression of script names; all if empty
}

// Test runs the quick Go tests, then the scripts on a lab. It runs in the project's root.
func Test(ctx context.Context, rep *progress.Reporter, o TestOptions) error {
	kind, err := lab.ParseKind(o.Kind)
	if err != nil {
		return err
	}
	dir := results(o.Kind, o.Suite)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	rep.Note("quick tests")
	if err := goTest(ctx, filepath.Join(dir, "quick.xml"), "./..."); err != nil {
		return fmt.Errorf("quick tests: %w", err)
	}
	if err := prereq.Ensure(ctx, rep, lab.Needs(kind)...); err != nil {
		return err
	}
	if _, err := gather(ctx, rep, o.Suite, spec.Default()); err != nil {
		return err
	}
	rep.Note("scripts on a %s lab with %s", kind, o.Suite)
	junit := filepath.Join(dir, "scripts.xml")
	err = goTest(ctx, junit,
		"./harness", "-count=1", "-parallel=1", "-timeout=80m", "-run=^TestScripts$/^scripts$/("+o.Run+")",
		"-lab.kind="+o.Kind, "-lab.suite="+o.Suite, "-lab.owner="+strconv.Itoa(os.Getpid()))
	// A test that was interrupted had no time to remove its lab.
	if l, openErr := lab.Open(filepath.Join(dir, "lab")); openErr == nil {
		err = errors.Join(err, l.Close(context.WithoutCancel(ctx)))
	}
	if err != nil {
		return fmt.Errorf("scripts: see %s: %w", dir, err)
	}
	// go test is content with no test at all.
	report, err := os.ReadFile(junit)
	if err != nil {
		return err
	}
	if !bytes.Contains(report, []byte(`name="TestScripts/scripts/`)) {
		return errors.New("no script ran: look at -run and at testdata")
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
