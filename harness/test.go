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

// ResultsDir gets JUnit files and, for each failed script, a folder of evidence.
const ResultsDir = "test-results"

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
	if err := os.RemoveAll(ResultsDir); err != nil {
		return err
	}
	if err := os.MkdirAll(ResultsDir, 0o755); err != nil {
		return err
	}
	rep.Note("quick tests")
	if err := goTest(ctx, "quick", "./..."); err != nil {
		return fmt.Errorf("quick tests: %w", err)
	}
	if err := prereq.Ensure(ctx, rep, lab.Needs(kind)...); err != nil {
		return err
	}
	if _, err := gather(ctx, rep, o.Suite, spec.Default()); err != nil {
		return err
	}
	rep.Note("scripts on a %s lab with %s", kind, o.Suite)
	name := string(kind) + "-" + o.Suite
	err = goTest(ctx, name,
		"./harness", "-count=1", "-parallel=1", "-timeout=80m", "-run=^TestScripts$/^scripts$/("+o.Run+")",
		"-lab.kind="+o.Kind, "-lab.suite="+o.Suite, "-lab.owner="+strconv.Itoa(os.Getpid()))
	// A test that was interrupted had no time to remove its lab.
	if l, openErr := lab.Open(filepath.Join(ResultsDir, "lab-"+name)); openErr == nil {
		err = errors.Join(err, l.Close(context.WithoutCancel(ctx)))
	}
	if err != nil {
		return fmt.Errorf("scripts: see %s: %w", ResultsDir, err)
	}
	// go test is content with no test at all.
	report, err := os.ReadFile(filepath.Join(ResultsDir, name+".xml"))
	if err != nil {
		return err
	}
	if !bytes.Contains(report, []byte(`name="TestScripts/scripts/`)) {
		return errors.New("no script ran: look at -run and at testdata")
	}
	return nil
}

// goTest runs go test with live output and a JUnit file.
func goTest(ctx context.Context, name string, args ...string) error {
	junit := filepath.Join(ResultsDir, name+".xml")
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
