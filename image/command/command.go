// Package command runs external programs. Every program this project starts goes
// through [Run] or [Output], so that each is bound to a context, dies with its
// parent, and reports a failure with its command line, its exit status and the end
// of what it printed.
package command

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// grace is how long a program may take to end after SIGTERM before SIGKILL follows.
const grace = 5 * time.Second

// tailSize is how many bytes of the program's output an [Error] keeps.
const tailSize = 1 << 10

// Cmd describes one run of an external program. Only Args is required.
type Cmd struct {
	Args []string // program and arguments
	Dir  string   // working directory; the caller's if empty
	Env  []string // KEY=VALUE, added to the caller's environment

	Stdin  io.Reader
	Stdout io.Writer // receives standard output, beside the tail kept for errors
	Stderr io.Writer // receives standard error likewise; may be the same as Stdout
	Bulk   *os.File  // instead of Stdout: is standard output, nothing of which is kept for errors

	// Namespaces gives the program new ones: syscall.CLONE_NEWNS and the like. As the first
	// process of a PID namespace it takes with it all that it started, even by SIGKILL.
	Namespaces uintptr

	// Started is called with the program's process id while it runs. Its error ends the
	// program, and is what Run returns.
	Started func(pid int) error

	grace time.Duration // the constant of that name if zero; tests have no five seconds
}

// Error is a program that could not be started, failed, or was ended by its context.
type Error struct {
	Args []string // program and arguments; the program alone if its context ended it
	Tail string   // the last bytes of output, standard error if it printed any
	Err  error    // *exec.ExitError, *exec.Error, or the context's error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s: %v", Quote(e.Args), e.Err)
	if e.Tail != "" {
		text += "\n" + indent(e.Tail)
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Run runs c to its end. When ctx is done, the program's process group gets SIGTERM
// and, five seconds later, SIGKILL; one with a PID namespace gets SIGKILL at once, as there
// is nothing it could leave behind. The error is nil or an [*Error].
func Run(ctx context.Context, c Cmd) error { return run(ctx, c) }

// Output is [Run] that also returns what the program wrote to standard output.
func Output(ctx context.Context, c Cmd) ([]byte, error) {
	var out bytes.Buffer
	if c.Stdout != nil {
		c.Stdout = io.MultiWriter(&out, c.Stdout)
	} else {
		c.Stdout = &out
	}
	err := run(ctx, c)
	return out.Bytes(), err
}

func run(ctx context.Context, c Cmd) (err error) {
	var mu sync.Mutex
	stdout, stderr := sink{mu: &mu, to: c.Stdout}, sink{mu: &mu, to: c.Stderr}
	cmd := exec.CommandContext(ctx, locate(c.Args[0]), c.Args[1:]...)
	cmd.Args[0] = c.Args[0]
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdin = c.Stdin
	cmd.Stdout = &stdout
	if c.Bulk != nil {
		cmd.Stdout = c.Bulk
	}
	cmd.Stderr = &stderr
	// Also bounds the wait for a daemon left behind that holds the output open.
	cmd.WaitDelay = cmp.Or(c.grace, grace)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: c.Namespaces}
	if c.Namespaces&syscall.CLONE_NEWPID != 0 {
		// PID 1 of a namespace ignores signals it has no handler for.
		cmd.Cancel = func() error { return kill(cmd.Process.Pid, syscall.SIGKILL) }
	} else {
		cmd.Cancel = func() error { return kill(cmd.Process.Pid, syscall.SIGTERM) }
	}

	// The kernel sends Pdeathsig when the thread that forked ends, not the process:
	// without a thread of its own the child could be killed at any moment.
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err = wait(cmd, c.Started)
		if ctx.Err() != nil && cmd.Process != nil {
			_ = kill(cmd.Process.Pid, syscall.SIGKILL) // members that outlived their leader
		}
	}()
	<-done

	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		// Whoever stopped it knows why: what it was doing explains nothing.
		return &Error{Args: c.Args[:1], Err: fmt.Errorf("stopped: %w", context.Cause(ctx))}
	}
	return &Error{Args: c.Args, Tail: cmp.Or(stderr.text(), stdout.text()), Err: err}
}

// wait starts cmd and waits for its end.
func wait(cmd *exec.Cmd, started func(pid int) error) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	if started != nil {
		if err := started(cmd.Process.Pid); err != nil {
			_ = kill(cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
			return err
		}
	}
	return cmd.Wait()
}

// locate finds debootstrap and the like where PATH has no sbin, as after Debian's plain su.
func locate(program string) string {
	if _, err := exec.LookPath(program); err == nil || strings.Contains(program, "/") {
		return program
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path
		}
	}
	return program
}

// kill signals the process group that pid leads.
func kill(pid int, sig syscall.Signal) error {
	err := syscall.Kill(-pid, sig)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// sink passes one output stream on and keeps its last tailSize bytes. The two sinks of
// a program share a lock: callers give one log for both streams, and os/exec, which
// sees two writers, copies them at the same time.
type sink struct {
	mu   *sync.Mutex
	to   io.Writer
	tail []byte
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tail = append(s.tail, p...)
	s.tail = s.tail[max(0, len(s.tail)-tailSize):]
	if s.to == nil {
		return len(p), nil
	}
	return s.to.Write(p)
}

func (s *sink) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.TrimSpace(string(s.tail))
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(text, "\n", "\n    ")
}

// Quote renders args so that a POSIX shell reads them back unchanged.
func Quote(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = quote(arg)
	}
	return strings.Join(quoted, " ")
}

func quote(arg string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("@%_+=:,./-", r)
	}
	if arg != "" && strings.TrimFunc(arg, plain) == "" {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}

// Replace runs a program in place of this process, for what a person types into. It
// returns only if the program can't be started.
func Replace(args []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return fmt.Errorf("%s is missing: install it: %w", args[0], err)
	}
	return syscall.Exec(path, args, os.Environ())
}
