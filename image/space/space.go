// Package space makes the place in which images are built: user, mount, PID, network,
// IPC and UTS namespaces (namespaces(7)) in which the caller is root, whoever it is
// outside. What is mounted or started there is gone with it, even if the builder is
// killed; what runs there sees no network, and neither the machine's name nor its
// processes.
//
// An ordinary user gets the ids of the files in an image from /etc/subuid and /etc/subgid;
// root keeps its own, so that both make the same tree.
package space

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"ephemeral-builder/image/command"
	"ephemeral-builder/scripts"
)

const namespaces = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID |
	syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS

// Space is a set of namespaces that lives until [Space.Close].
type Space struct {
	pid   int
	env   []string      // of all programs
	input io.Closer     // of the first process, which ends with it
	ended chan struct{} // closed when the first process has ended, with err
	err   error
}

// Start makes a space. It lasts no longer than ctx and this process. All programs in it
// see the time that clock says, in the form of FAKETIME of faketime(1); the empty one is
// the real time.
func Start(ctx context.Context, clock string) (*Space, error) {
	env, err := environment(clock)
	if err != nil {
		return nil, err
	}
	ids, err := idMaps()
	if err != nil {
		return nil, err
	}
	script, err := scripts.FS.ReadFile("space")
	if err != nil {
		return nil, err
	}
	stdin, input, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	output, stdout := io.Pipe()
	s := &Space{env: env, input: input, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		s.err = command.Run(ctx, command.Cmd{
			// The first shell is nobody as yet, and has no rights. They come with the first
			// exec after the ids are mapped (user_namespaces(7)).
			Args:       []string{"/bin/sh", "-c", `read -r _ && exec /bin/sh -c "$1"`, "space", string(script)},
			Env:        env[:1],
			Stdin:      stdin,
			Stdout:     stdout,
			Namespaces: namespaces,
			Started: func(pid int) error {
				s.pid = pid
				if err := ids.write(ctx, pid); err != nil {
					return err
				}
				_, err := io.WriteString(input, "\n")
				return err
			},
		})
		stdout.CloseWithError(io.EOF)
	}()
	if line, err := bufio.NewReader(output).ReadString('\n'); err != nil || line != "ready\n" {
		err := s.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, explain(err)
	}
	go io.Copy(io.Discard, output)
	return s, nil
}

// Close ends all that runs in the space and takes away what is mounted there. It may be
// called more than once.
func (s *Space) Close() error {
	s.input.Close()
	<-s.ended
	return s.err
}

// environment finds the programs of a Debian system, and sets their clock.
func environment(clock string) ([]string, error) {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if clock == "" {
		return env, nil
	}
	found, err := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
	if err != nil || len(found) == 0 {
		return nil, errors.New("FAKETIME is set, but libfaketime is missing: run: sudo apt-get install faketime")
	}
	// By the first process's root, the library is found in every chroot that has a /proc.
	return append(env, "LD_PRELOAD=/proc/1/root"+found[0], "FAKETIME="+clock, "FAKETIME_DONT_FAKE_MONOTONIC=1",
		"FAKETIME_DISABLE_SHM=1", // is not found again in a chroot
		"NO_FAKE_STAT=1"), nil    // the times of files are real
}

// Run is [command.Run] in the space, as its root. The environment is c.Env alone, with
// Debian's PATH, and the umask is 022: who builds must not show in the image. Relative
// names, and those of what c writes, are as outside.
func (s *Space) Run(ctx context.Context, c command.Cmd) error {
	args := c.Args
	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	enter := []string{"nsenter", "--target", strconv.Itoa(s.pid), "--user", "--mount", "--pid", "--net", "--ipc", "--uts",
		"--", "/bin/sh", "-c", `umask 022 && cd "$1" && shift && exec env -i "$@"`, "sh", dir}
	c.Dir = ""
	c.Args = slices.Concat(enter, s.env, c.Env, args)
	c.Env = nil
	err := command.Run(ctx, c)
	if failed, ok := errors.AsType[*command.Error](err); ok {
		failed.Args = args // how we got in explains nothing
	}
	return err
}

// Path is where a file of the space is seen from outside, also of what is mounted in there
// only.
func (s *Space) Path(path string) string {
	return filepath.Join("/proc", strconv.Itoa(s.pid), "root", path)
}

// explain tells an ordinary user which setting forbids what namespaces need.
func explain(err error) error {
	const root = ", or run it with sudo"
	for _, knob := range []struct{ path, bad, remedy string }{
		{"/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
	} {
		text, readErr := os.ReadFile(knob.path)
		if readErr == nil && strings.TrimSpace(string(text)) == knob.bad && (os.Geteuid() != 0 || strings.Contains(knob.path, "max_")) {
			return fmt.Errorf("this system forbids user namespaces: run: sudo %s%s: %w", knob.remedy, root, err)
		}
	}
	return fmt.Errorf("making the namespaces to build in: is this a container without the right to (CAP_SYS_ADMIN)? %w", err)
}
