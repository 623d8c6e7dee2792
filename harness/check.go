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

// Check looks at the form of all Go and shell in the project's root, and reports every
// finding at once.
func Check(ctx context.Context, rep *progress.Reporter) error {
	if err := prereq.Ensure(ctx, rep, prereq.Need{Program: "shellcheck", Package: "shellcheck"}); err != nil {
		return err
	}
	shell, err := shellScripts("scripts", ".ci", filepath.Join("testdata", "tutorial"))
	if err != nil {
		return err
	}
	var findings []error
	for _, check := range []struct {
		name string
		args []string
	}{
		{"gofmt", []string{"gofmt", "-l", "."}},
		{"vet", []string{"go", "vet", "./..."}},
		{"vet -tags mage", []string{"go", "vet", "-tags", "mage", "./..."}},
		{"staticcheck", []string{"go", "tool", "staticcheck", "./..."}},
		{"staticcheck -tags mage", []string{"go", "tool", "staticcheck", "-tags", "mage", "./..."}},
		{"shellcheck", append([]string{"shellcheck"}, shell...)},
	} {
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

// shellScripts lists the files in some folders that begin with a shell's name.
func shellScripts(dirs ...string) ([]string, error) {
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
			if first, _, _ := bytes.Cut(text, []byte("\n")); bytes.HasPrefix(first, []byte("#!/bin/sh")) {
				found = append(found, path)
			}
		}
	}
	if len(found) == 0 {
		return nil, errors.New("found no shell scripts: run it in the project's root")
	}
	return found, nil
}
