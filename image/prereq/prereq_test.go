package prereq

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ephemeral-builder/image/progress"
)

// A fake logs its call beside itself. Fakes see no PATH but their own directory.
const (
	logCall = "#!/bin/sh\nset -eu\ndir=${0%/*}\necho \"${0##*/} $*\" >>\"$dir/calls\"\n"
	add     = `add() { echo "Setting up $1 ..."; echo '#!/bin/sh' >"$dir/$1"; /bin/chmod +x "$dir/$1"; }` + "\n"

	installs = `case $* in *install*) add zstd; add qemu-img;; esac`
	// needsLists can't install before the second of two updates, as the first meets a lock.
	needsLists = `case $* in
*update)
	[ -e "$dir/locked" ] || { : >"$dir/locked"; echo 'E: Could not get lock /lists/lock. It is held by process 1 (apt)' >&2; exit 100; }
	: >"$dir/lists";;
*install*)
	[ -e "$dir/lists" ] || { echo 'E: Unable to locate package zstd' >&2; exit 100; }
	add zstd; add qemu-img;;
esac`
	offline = `case $* in
*update) echo 'E: Temporary failure resolving' >&2; exit 100;;
*) echo 'E: Unable to locate package zstd' >&2; exit 100;;
esac`
	empty = `:`

	sudoYes = `[ "$1" = -n ]; shift; [ "$1" = true ] || PATH=/usr/bin:/bin "$@"`
	sudoNo  = `echo 'sudo: a password is required' >&2; exit 1`

	aptInstall = "apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends zstd qemu-utils\n"
	aptUpdate  = "apt-get -o DPkg::Lock::Timeout=120 update\n"
)

func TestEnsure(t *testing.T) {
	tests := []struct {
		name   string
		root   bool
		apt    string // body of the fake, which is absent if empty
		sudo   string
		exists string // a program that is there before
		calls  string
		errors []string // parts of the error, in their order
	}{
		{name: "root", root: true, apt: installs, calls: aptInstall},
		{name: "root needs lists", root: true, apt: needsLists, calls: aptInstall + aptUpdate + aptUpdate + aptInstall},
		{name: "offline", root: true, apt: offline, calls: aptInstall + aptUpdate + aptInstall,
			errors: []string{"apt-get -o DPkg::Lock::Timeout=120 update: exit status 100\n    E: Temporary failure resolving\n",
				"install -y --no-install-recommends zstd qemu-utils: exit status 100\n    E: Unable to locate package zstd"}},
		{name: "the package has it not", root: true, apt: empty, calls: aptInstall,
			errors: []string{"zstd, qemu-img are missing even with zstd qemu-utils installed: run: apt-cache policy zstd qemu-utils"}},
		{name: "root has no apt-get", root: true,
			errors: []string{"zstd, qemu-img are missing: install with the package manager of this system"}},
		{name: "sudo", apt: installs, sudo: sudoYes,
			calls: "sudo -n true\nsudo -n env DEBIAN_FRONTEND=noninteractive LC_ALL=C $dir/" + aptInstall + aptInstall},
		{name: "sudo wants a password", apt: installs, sudo: sudoNo, calls: "sudo -n true\n",
			errors: []string{"zstd, qemu-img are missing: run: sudo apt-get install zstd qemu-utils"}},
		{name: "no sudo", apt: installs, exists: "qemu-img",
			errors: []string{"zstd is missing: run: sudo apt-get install zstd"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			fake(t, dir, "apt-get", tt.apt)
			fake(t, dir, "sudo", tt.sudo)
			fake(t, dir, tt.exists, empty)
			fake(t, dir, "sh", empty)

			var log bytes.Buffer
			rep := progress.New(&log)
			s := system{dirs: []string{"", "relative", filepath.Join(dir, "none"), dir}, root: tt.root}
			err := s.ensure(t.Context(), rep, []Need{{"sh", "dash"}, {"zstd", "zstd"}, {"qemu-img", "qemu-utils"}, {"qemu-img", "qemu-utils"}})
			rep.Close()

			if (err == nil) != (tt.errors == nil) {
				t.Errorf("got %v, want %q", err, tt.errors)
			} else if err != nil {
				rest, ok := err.Error(), true
				for _, part := range tt.errors {
					if _, rest, ok = strings.Cut(rest, part); !ok {
						t.Errorf("got %q, want %q in it", err, part)
					}
				}
				if len(tt.errors) == 1 && err.Error() != tt.errors[0] {
					t.Errorf("got %q, want %q", err, tt.errors[0])
				}
			}
			calls, _ := os.ReadFile(filepath.Join(dir, "calls"))
			if got := strings.ReplaceAll(string(calls), dir, "$dir"); got != tt.calls {
				t.Errorf("got calls\n%swant\n%s", got, tt.calls)
			}
			note := "installing zstd, qemu-utils: needed and not found\ninstall    started\n"
			if got, want := strings.HasPrefix(log.String(), note), strings.Contains(tt.calls, "install"); got != want {
				t.Errorf("got %q, want %q: %v", log.String(), note, want)
			}
		})
	}
}

// A person who interrupts should not read of missing programs.
func TestCancelled(t *testing.T) {
	for name, s := range map[string]system{"root": {root: true}, "sudo": {}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fake(t, dir, "apt-get", installs)
			fake(t, dir, "sudo", sudoYes)
			s.dirs = []string{dir}
			cause := errors.New("interrupted")
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(cause)
			if err := s.ensure(ctx, nil, []Need{{"zstd", "zstd"}}); !errors.Is(err, cause) {
				t.Errorf("got %v, want %v", err, cause)
			}
		})
	}
}

func TestNothingMissing(t *testing.T) {
	if err := Ensure(t.Context(), nil, Need{"sh", "dash"}, Need{"ldconfig", "libc-bin"}); err != nil {
		t.Error(err)
	}
}

// fake writes an executable script, if it has a body.
func fake(t *testing.T, dir, name, body string) {
	t.Helper()
	if name == "" || body == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(logCall+add+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}
