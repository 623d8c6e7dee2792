// Package deb makes a Debian package of the program: the magefile compiled, for hosts that have
// no Go, with a man page and completion for bash.
package deb

import (
	"bytes"
	"compress/gzip"
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"text/template"
	"time"

	debversion "github.com/knqyf263/go-deb-version"

	"ephemeral-builder/image"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/progress"
)

//go:embed files
var files embed.FS

// Targets are those that administer a host, and a fleet of them.
var Targets = []string{
	"install", "uninstall", "rollback", "runner", "status", "logs", "shell", "doctor", "drain",
	"fleet:write", "fleet:certify", "fleet:status", "fleet:drain", "fleet:update", "fleet:rollback",
}

// Options says what to make.
type Options struct {
	Version string // a Debian version; by the current commit's time if empty
	Out     string // folder
	Program string // compiled already; made if empty
}

// Compile compiles the magefile of the current folder into a program that needs nothing but a
// kernel, and that is the same wherever that is done.
func Compile(ctx context.Context, path string) error {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return command.Run(ctx, command.Cmd{
		Args: []string{"go", "tool", "mage", "-compile", absolute},
		Env:  []string{"CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false"},
	})
}

// Make makes Out/ephemeral-builder_VERSION_ARCH.deb, and returns its path. The same commit and
// toolchain give the same bytes.
func Make(ctx context.Context, rep *progress.Reporter, o Options) (string, error) {
	_, committed, err := image.Commit(ctx, ".")
	if err != nil {
		return "", err
	}
	if o.Version == "" {
		o.Version = committed.UTC().Format("20060102.150405")
	}
	if _, err := debversion.NewVersion(o.Version); err != nil {
		return "", fmt.Errorf("%s is no version of a Debian package: %w", o.Version, err)
	}
	stage := rep.Stage("package")
	defer stage.Fail() // of no effect after Done
	tree, err := os.MkdirTemp("", "deb-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tree)
	program := filepath.Join(tree, "usr", "bin", "ephemeral-builder")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return "", err
	}
	if o.Program == "" {
		stage.Detail("compiling")
		err = Compile(ctx, program)
	} else {
		err = command.Run(ctx, command.Cmd{Args: []string{"cp", o.Program, program}})
	}
	if err != nil {
		return "", err
	}
	stage.Detail("packing")
	path, err := pack(ctx, tree, o, committed)
	if err != nil {
		return "", err
	}
	stage.Done("%s", path)
	return path, nil
}

// pack completes a tree that has the program.
func pack(ctx context.Context, tree string, o Options, at time.Time) (string, error) {
	program := filepath.Join(tree, "usr", "bin", "ephemeral-builder")
	info, err := os.Stat(program)
	if err != nil {
		return "", err
	}
	targets, err := describe(ctx, program)
	if err != nil {
		return "", err
	}
	values := map[string]any{
		"Version": o.Version, "Arch": runtime.GOARCH, "Maintainer": "ephemeral-builder developers <root@localhost>",
		"Size": info.Size() >> 10, "Targets": targets, "Date": at.UTC().Format(time.DateOnly),
	}
	parsed, err := template.ParseFS(files, "files/*")
	if err != nil {
		return "", err
	}
	for _, f := range []struct {
		template, path string
		mode           os.FileMode
		zipped         bool
	}{
		{"control", "DEBIAN/control", 0o644, false},
		{"prerm", "DEBIAN/prerm", 0o755, false},
		{"postrm", "DEBIAN/postrm", 0o755, false},
		{"completion", "usr/share/bash-completion/completions/ephemeral-builder", 0o644, false},
		{"man", "usr/share/man/man1/ephemeral-builder.1.gz", 0o644, true},
	} {
		var text bytes.Buffer
		if err := parsed.ExecuteTemplate(&text, f.template, values); err != nil {
			return "", err
		}
		if err := write(filepath.Join(tree, f.path), text.Bytes(), f.mode, f.zipped); err != nil {
			return "", err
		}
	}
	for from, to := range map[string]string{"README.md": "usr/share/doc/ephemeral-builder/README.md.gz", filepath.Join("units", "dashboard.json"): "usr/share/ephemeral-builder/dashboard.json"} {
		text, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		if err := write(filepath.Join(tree, to), text, 0o644, strings.HasSuffix(to, ".gz")); err != nil {
			return "", err
		}
	}
	// Whatever the umask.
	err = filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && path != program {
			return err
		}
		return os.Chmod(path, 0o755)
	})
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(o.Out, fmt.Sprintf("ephemeral-builder_%s_%s.deb", o.Version, runtime.GOARCH))
	// dpkg-deb(1) takes all times from the variable, and sorts.
	err = command.Run(ctx, command.Cmd{
		Args: []string{"dpkg-deb", "--build", "--root-owner-group", "-Zzstd", "--threads-max=1", tree, path + ".partial"},
		Env:  []string{"SOURCE_DATE_EPOCH=" + strconv.FormatInt(at.Unix(), 10)},
	})
	if err != nil {
		return "", err
	}
	return path, os.Rename(path+".partial", path)
}

func write(path string, text []byte, mode os.FileMode, zipped bool) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if zipped {
		var packed bytes.Buffer
		w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression) // without name and time
		if err != nil {
			return err
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		text = packed.Bytes()
	}
	if err := os.WriteFile(path, text, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// Target is what the program says of one of its own.
type Target struct {
	Name, Summary string
	Args          []string // that have no flag
	Flags         []Flag
}

// Flag is one of a target.
type Flag struct{ Name, Type, About string }

var (
	usageLine = regexp.MustCompile(`^\S+ \S+ (<[a-z]+>(?: <[a-z]+>)*)(?: \[<flags>\])?$`)
	flagLine  = regexp.MustCompile(`^-([A-Za-z]+)=<([a-z]+)>\s+(.*)$`)
)

// describe asks the program.
func describe(ctx context.Context, program string) ([]Target, error) {
	var all []Target
	for _, name := range Targets {
		out, err := command.Output(ctx, command.Cmd{Args: []string{program, "-h", name}})
		if err != nil {
			return nil, err
		}
		all = append(all, parse(name, string(out)))
	}
	return all, nil
}

// parse reads the help of a compiled magefile's target.
func parse(name, help string) Target {
	t := Target{Name: name}
	for line := range strings.Lines(help) {
		line = strings.TrimSpace(line)
		if t.Summary == "" && line != "" {
			t.Summary = line
		}
		if match := usageLine.FindStringSubmatch(line); match != nil {
			for arg := range strings.FieldsSeq(match[1]) {
				t.Args = append(t.Args, strings.Trim(arg, "<>"))
			}
		}
		if match := flagLine.FindStringSubmatch(line); match != nil {
			t.Flags = append(t.Flags, Flag{match[1], match[2], match[3]})
		}
	}
	return t
}
