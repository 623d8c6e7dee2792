package units

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/crypto/ssh/knownhosts"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/units/runner"
)

// RunnerOptions says what to tell GitLab Runner of a builder. What is empty stays as the
// configuration has it, or has the default that is named.
type RunnerOptions struct {
	Spec   spec.Spec
	Config string // of the runner
	Name   string // of the section: the spec's
	Limit  int    // jobs at once: the spec's concurrency
	URL    string // of GitLab
	Token  string // file that holds it, or empty for CI_SERVER_TOKEN of the environment
	// Restart the service. It reads a changed file by itself, within seconds.
	Restart bool
}

// RunnerConfig is the default of RunnerOptions.Config.
const RunnerConfig = "/etc/gitlab-runner/config.toml"

// ConfigureRunner puts a section for the builder into GitLab Runner's config.toml on this host,
// and says what it did, and how the runner's own command does the same.
func ConfigureRunner(ctx context.Context, o RunnerOptions) (text string, err error) {
	section := runnerSection(o.Spec, KeysOf(o.Spec.Name))
	if o.Name != "" {
		section.Name = o.Name
	}
	if o.Limit != 0 {
		section.Limit = o.Limit
	}
	if section.Limit < 1 || section.Limit > o.Spec.Concurrency {
		return "", fmt.Errorf("a limit of %d does not fit %d slots: lower it, or raise concurrency in the spec", section.Limit, o.Spec.Concurrency)
	}
	if o.URL != "" && !strings.HasPrefix(o.URL, "https://") && !strings.HasPrefix(o.URL, "http://") {
		return "", fmt.Errorf("%s is no address of a GitLab: write it as https://gitlab.example.com/", o.URL)
	}
	known, err := os.ReadFile(section.KnownHosts)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is not installed on this host: run first: %s: %w", o.Spec.Name, command.Self("install"), err)
	} else if err != nil {
		return "", err
	}
	if address := knownhosts.Normalize(o.Spec.SSH.Local().String()); !strings.HasPrefix(string(known), address+" ") {
		return "", fmt.Errorf("%s is installed, but listens somewhere else than %s: name the spec it was installed with, or install this one", o.Spec.Name, o.Spec.SSH.Listen)
	}
	section.URL, section.Token = o.URL, os.Getenv("CI_SERVER_TOKEN")
	shell := `"$CI_SERVER_TOKEN"`
	if o.Token != "" {
		if section.Token, err = runner.ReadToken(o.Token); err != nil {
			return "", err
		}
		shell = `"$(cat ` + command.Quote([]string{o.Token}) + `)"`
	}
	if strings.ContainsAny(section.Token, " \t\n") {
		return "", errors.New("the token has blanks in it: it is one word, which begins with glrt-")
	}
	if runner.IsRegistrationToken(section.Token) {
		return "", fmt.Errorf("this is a registration token, which the runner exchanges for one of its own: run this, and set concurrent = %d in %s\n\n  %s",
			section.Limit, o.Config, section.Register(shell, true))
	}
	changes, err := runner.Configure(o.Config, section, func(c runner.Config) error {
		section.URL = urlOf(c, section.Name)
		return checkRunners(c, o.Spec)
	})
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for _, change := range changes {
		fmt.Fprintln(&out, change)
	}
	if len(changes) == 0 {
		fmt.Fprintf(&out, "unchanged: %s knew the runner %q already\n", o.Config, section.Name)
	} else {
		fmt.Fprintf(&out, "wrote %s\n", o.Config)
	}
	switch {
	case o.Restart:
		if err := restartRunner(ctx); err != nil {
			return out.String(), err
		}
		fmt.Fprintln(&out, "restarted gitlab-runner")
	case len(changes) > 0:
		fmt.Fprintln(&out, "a gitlab-runner that runs reads it within seconds")
	}
	fmt.Fprintf(&out, "\nthe host key that it will accept is in %s\n", section.KnownHosts)
	fmt.Fprintf(&out, "the runner's own command for the same, with \"concurrent\" still to set:\n\n  %s\n\nand with a registration token, before GitLab 16:\n\n  %s\n",
		section.Register(shell, false), section.Register(`"$REGISTRATION_TOKEN"`, true))
	return out.String(), nil
}

// runnerSection is a builder's, with neither a token nor the address of GitLab.
func runnerSection(s spec.Spec, keys Keys) runner.Section {
	section := runner.ForBuilder(s.Name, s.SSH.Local().Addr().String(), s.SSH.Local().Port(), s.Concurrency)
	section.IdentityFile, section.KnownHosts = keys.Runner, keys.KnownHosts
	return section
}

func urlOf(c runner.Config, name string) string {
	for _, r := range c.Runners {
		if r.Name == name {
			return r.URL
		}
	}
	return ""
}

// checkRunners fails if the runners that use a builder together take more jobs than it has slots:
// those above them it refuses, and they fail. Containers that wait let them queue instead.
func checkRunners(c runner.Config, s spec.Spec) error {
	if s.Start == spec.StartWarm {
		return nil
	}
	var names []string
	jobs := 0
	for _, r := range c.Runners {
		if !r.Uses(s.SSH.Local()) {
			continue
		}
		if r.Limit == 0 {
			return fmt.Errorf("the runner %q has no limit, and %s has %d slots: set its limit, as jobs above the slots fail", r.Name, s.Name, s.Concurrency)
		}
		names = append(names, fmt.Sprintf("%q", r.Name))
		jobs += r.Limit
	}
	if jobs > s.Concurrency {
		return fmt.Errorf("the runners %s take %d jobs at once, and %s has %d slots: give each a -limit, raise concurrency, or let jobs queue with start = \"warm\" in the spec",
			strings.Join(names, " and "), jobs, s.Name, s.Concurrency)
	}
	return nil
}

func restartRunner(ctx context.Context) error {
	manager, err := connect(ctx)
	if err != nil {
		return err
	}
	defer manager.close()
	if err := manager.restart(ctx, "gitlab-runner.service"); err != nil {
		return fmt.Errorf("%w: its configuration is written, and a runner that runs under another name reads it within seconds", err)
	}
	return nil
}
