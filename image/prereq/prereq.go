// Package prereq makes sure that the programs that the work needs exist, and on Debian
// installs those that don't.
package prereq

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/progress"
)

// Need is a program and the Debian package that has it.
type Need struct{ Program, Package string }

// Ensure returns nil if each program is in PATH, /usr/sbin or /sbin. Otherwise root, and
// who may use sudo without a password, gets the missing ones installed with apt-get; for
// all others the error says what to run. Two calls may run at the same time.
func Ensure(ctx context.Context, rep *progress.Reporter, needs ...Need) error {
	// The PATH of people and of a plain su lacks the directories where debootstrap is,
	// and ldconfig, without which dpkg refuses to work.
	dirs := append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin")
	return system{dirs: dirs, root: os.Geteuid() == 0, pause: time.Second}.ensure(ctx, rep, needs)
}

// system is what Ensure looks at.
type system struct {
	dirs  []string      // where programs are
	root  bool          // whether we are root
	pause time.Duration // between two looks at a lock
}

func (s system) ensure(ctx context.Context, rep *progress.Reporter, needs []Need) error {
	missing := slices.DeleteFunc(slices.Clone(needs), func(n Need) bool { return s.find(n.Program) != "" })
	if len(missing) == 0 {
		return nil
	}
	packages := names(missing, func(n Need) string { return n.Package })
	aptGet := s.find("apt-get")
	if aptGet == "" {
		return fmt.Errorf("%s: install with the package manager of this system", areMissing(missing))
	}
	var asRoot []string
	if !s.root {
		sudo := s.find("sudo")
		if sudo == "" || command.Run(ctx, command.Cmd{Args: []string{sudo, "-n", "true"}}) != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%s: run: sudo apt-get install %s", areMissing(missing), strings.Join(packages, " "))
		}
		asRoot = []string{sudo, "-n"}
	}

	rep.Note("installing %s: needed and not found", strings.Join(packages, ", "))
	stage := rep.Stage("install")
	defer stage.Fail()
	apt := func(args ...string) error {
		return command.Run(ctx, command.Cmd{
			// By env, as sudo keeps no variables. The messages of C are those that update knows.
			Args: slices.Concat(asRoot, []string{"env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C",
				aptGet, "-o", "DPkg::Lock::Timeout=120"}, args),
			Env:    []string{"PATH=" + strings.Join(s.dirs, string(filepath.ListSeparator))},
			Stdout: stage,
		})
	}
	install := append([]string{"install", "-y", "--no-install-recommends"}, packages...)
	err := apt(install...)
	if err != nil && ctx.Err() == nil {
		// A fresh host has no package lists, and old ones name files that the mirror has
		// no longer. One source that can't be read need not be the one that counts.
		updateErr := s.update(ctx, apt)
		if err = apt(install...); err != nil {
			err = errors.Join(updateErr, err)
		}
	}
	if err != nil {
		return err
	}
	missing = slices.DeleteFunc(missing, func(n Need) bool { return s.find(n.Program) != "" })
	if len(missing) > 0 {
		return fmt.Errorf("%s even with %s installed: run: apt-cache policy %[2]s", areMissing(missing),
			strings.Join(names(missing, func(n Need) string { return n.Package }), " "))
	}
	stage.Done("%s", strings.Join(packages, ", "))
	return nil
}

// update waits up to two minutes for another update, as the lock of the package lists,
// unlike that of the packages, has no DPkg::Lock::Timeout (seen with apt 2.6).
func (s system) update(ctx context.Context, apt func(...string) error) error {
	for tries := 0; ; tries++ {
		err := apt("update")
		var failure *command.Error
		if tries == 120 || !errors.As(err, &failure) || !strings.Contains(failure.Tail, "Could not get lock") {
			return err
		}
		select {
		case <-time.After(s.pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// find returns the path of a program, or "".
func (s system) find(program string) string {
	for _, dir := range s.dirs {
		if path := filepath.Join(dir, program); filepath.IsAbs(path) {
			if _, err := exec.LookPath(path); err == nil {
				return path
			}
		}
	}
	return ""
}

func areMissing(needs []Need) string {
	programs := names(needs, func(n Need) string { return n.Program })
	if len(programs) == 1 {
		return programs[0] + " is missing"
	}
	return strings.Join(programs, ", ") + " are missing"
}

// names returns one name of each need, each once.
func names(needs []Need, name func(Need) string) []string {
	var all []string
	for _, n := range needs {
		if !slices.Contains(all, name(n)) {
			all = append(all, name(n))
		}
	}
	return all
}
