package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/prereq"
	"ephemeral-builder/image/progress"
)

// Check looks at the form of all Go, shell and perl in the project's root, and reports every
// finding at once.
func Check(ctx context.Context, rep *progress.Reporter) error {
	if err := prereq.Ensure(ctx, rep, prereq.Need{Program: "shellcheck", Package: "shellcheck"}); err != nil {
		return err
	}
	shell, err := scriptsOf("/bin/sh", "scripts", ".ci", filepath.Join("testdata", "tutorial"), filepath.Join("testdata", "contenders"))
	if err != nil {
		return err
	}
	perl, err := scriptsOf("/usr/bin/perl", "scripts")
	if err != nil {
		return err
	}
	var findings []error
	type check struct {
		name string
		args []string
	}
	checks := []check{
		{"gofmt", []string{"gofmt", "-l", "."}},
		{"vet", []string{"go", "vet", "./..."}},
		{"vet -tags mage", []string{"go", "vet", "-tags", "mage", "./..."}},
		{"staticcheck", []string{"go", "tool", "staticcheck", "./..."}},
		{"staticcheck -tags mage", []string{"go", "tool", "staticcheck", "-tags", "mage", "./..."}},
		{"shellcheck", append([]string{"shellcheck"}, shell...)},
	}
	for _, script := range perl {
		checks = append(checks, check{"perl -c " + script, []string{"perl", "-wc", script}})
	}
	for _, check := range checks {
		stage := rep.Stage(check.name)
		out, err := command.Output(ctx, command.Cmd{Args: check.args})
		if err == nil && check.name == "gofmt" && len(out) > 0 {
			err = fmt.Errorf("not formatted, run gofmt -w:\n%s", out)
		}
		if err != nil {
			stage.Fail()
			findings = append(findings, err)
			continue
		}
		stage.Done("")
	}
	return errors.Join(findings...)
}

// scriptsOf lists the files in some folders that begin with an interpreter's name.
func scriptsOf(interpreter string, dirs ...string) ([]string, error) {
	var found []string
	for _, dir := range dirs {
		paths, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			if first, _, _ := bytes.Cut(text, []byte("\n")); bytes.HasPrefix(first, []byte("#!"+interpreter)) {
				found = append(found, path)
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("found no scripts of %s: run it in the project's root", interpreter)
	}
	return found, nil
}
