//go:build mage

// A clean, throw-away machine for every SSH connection: images, units, and a lab that proves them.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/magefile/mage/mg"

	"ephemeral-builder/harness"
	"ephemeral-builder/image"
	"ephemeral-builder/image/progress"
	specfile "ephemeral-builder/image/spec"
	"ephemeral-builder/units"
)

// Builds an image from a spec: dist/NAME_VERSION_ARCH.tar.zst, its manifest, and SHA256SUMS.
func Build(ctx context.Context,
	spec *string, // spec file (default: ephemeral-builder.toml if there is one)
	version *string, // version of the image (default: time of the current commit)
	out *string, // folder for the results (default: dist)
) error {
	s, err := load(spec)
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		img, err := image.BuildDefault(ctx, rep, s, value(version, ""), value(out, "dist"))
		if err != nil {
			return err
		}
		rep.Note("%s\ninstall it on a host with: go tool mage install", img.Tarball)
		return nil
	})
}

// Installs the newest image and its units on this host, and starts the socket.
func Install(ctx context.Context,
	spec *string, // spec file (default: ephemeral-builder.toml if there is one)
	from *string, // folder with the image (default: dist)
	version *string, // version of the image (default: the newest)
) error {
	s, err := load(spec)
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		installed, err := units.Install(ctx, rep, units.Options{Spec: s, From: value(from, "dist"), Version: value(version, "")})
		if err != nil {
			return err
		}
		text, err := installed.Text(s)
		rep.Note("%s", text)
		return err
	})
}

// Uninstalls image and units from this host, and says what stays.
func Uninstall(ctx context.Context,
	spec *string, // spec file (default: ephemeral-builder.toml if there is one)
) error {
	s, err := load(spec)
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		gone, err := units.Uninstall(ctx, rep, s)
		if err != nil {
			return err
		}
		rep.Note("%s", gone.Text())
		return nil
	})
}

// Checks form: gofmt, vet with and without -tags mage, staticcheck, shellcheck.
func Check(ctx context.Context) error {
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error { return harness.Check(ctx, rep) })
}

// Tests everything: quick Go tests, then the scripts of testdata/ against a throw-away host.
func Test(ctx context.Context,
	kind *string, // kind of lab: vm or container (default: vm)
	suite *string, // Debian suite of the lab host: trixie or bookworm (default: trixie)
	run *string, // only scripts whose name matches this regular expression
) error {
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		return harness.Test(ctx, rep, harness.TestOptions{Kind: value(kind, "vm"), Suite: value(suite, "trixie"), Run: value(run, "")})
	})
}

// Lab is a throw-away host with the image installed, to play with.
type Lab mg.Namespace

// Up starts a lab and leaves it running.
func (Lab) Up(ctx context.Context,
	kind *string, // vm or container (default: vm)
	suite *string, // Debian suite of the lab host: trixie or bookworm (default: trixie)
	spec *string, // spec file (default: ephemeral-builder.toml if there is one)
	json *bool, // print addresses and keys as JSON
) error {
	s, err := load(spec)
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		return harness.Up(ctx, rep, os.Stdout, harness.UpOptions{Kind: value(kind, "vm"), Suite: value(suite, "trixie"), Spec: s, JSON: value(json, false)})
	})
}

// Exec runs a command as root on the lab host.
func (Lab) Exec(command string) error { return harness.Exec(command) }

// Ssh opens a builder session: a container of its own on the lab host.
func (Lab) Ssh(
	command *string, // what to run (default: a login shell)
) error {
	return harness.SSH(value(command, ""))
}

// Down ends the lab and removes it.
func (Lab) Down(ctx context.Context) error { return harness.Down(ctx) }

// report runs work with a progress reporter on standard error. Being told to end is the
// same as Ctrl-C, which mage itself handles.
func report(ctx context.Context, work func(context.Context, *progress.Reporter) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	rep := progress.New(os.Stderr)
	defer rep.Close()
	return work(ctx, rep)
}

// load reads a spec, named by a flag or not.
func load(path *string) (specfile.Spec, error) { return specfile.Load(value(path, "")) }

// value is what a flag was set to, or its default.
func value[T any](flag *T, otherwise T) T {
	if flag == nil {
		return otherwise
	}
	return *flag
}
