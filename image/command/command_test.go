package command

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asParent makes this test binary a program that runs its arguments through Run. Its
// value is "plain" or "isolated".
const asParent = "COMMAND_TEST_PARENT"

// isolated are the namespaces in which nothing outlives a program.
const isolated = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS

func TestMain(m *testing.M) {
	if mode := os.Getenv(asParent); mode != "" {
		err := Run(context.Background(), Cmd{Args: os.Args[1:], Stdout: os.Stdout, Namespaces: map[string]uintptr{"isolated": isolated}[mode]})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestErrorText(t *testing.T) {
	tests := []struct {
		name   string
		script string
		want   string
	}{
		{"status only", "exit 3", "sh -c 'exit 3': exit status 3"},
		{"stderr is preferred", "echo out; echo err >&2; exit 4",
			"sh -c 'echo out; echo err >&2; exit 4': exit status 4\n    err"},
		{"stdout without stderr", "echo one; echo two; exit 5",
			"sh -c 'echo one; echo two; exit 5': exit status 5\n    one\n    two"},
		{"signal", "kill -9 $$", "sh -c 'kill -9 $$': signal: killed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Run(t.Context(), Cmd{Args: []string{"sh", "-c", tt.script}})
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %q, want %q", err, tt.want)
			}
			if exit := new(exec.ExitError); !errors.As(err, &exit) {
				t.Errorf("got %T, want an *exec.ExitError inside", errors.Unwrap(err))
			}
		})
	}
}

func TestTailIsTheEnd(t *testing.T) {
	var all bytes.Buffer
	err := Run(t.Context(), Cmd{
		Args:   []string{"sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; exit 1"},
		Stdout: &all,
	})
	var failure *Error
	if !errors.As(err, &failure) {
		t.Fatalf("got %v, want an *Error", err)
	}
	if len(failure.Tail) > tailSize || !strings.HasSuffix(failure.Tail, "line 1998\nline 1999") {
		t.Errorf("got a tail of %d bytes that ends in %q", len(failure.Tail), failure.Tail[len(failure.Tail)-20:])
	}
	if !strings.HasPrefix(all.String(), "line 0\nline 1\n") {
		t.Errorf("Stdout got %.20q, want it from the first line", all.String())
	}
}

func TestNotFound(t *testing.T) {
	err := Run(t.Context(), Cmd{Args: []string{"no-such-program"}})
	if !errors.Is(err, exec.ErrNotFound) || !strings.HasPrefix(err.Error(), "no-such-program: ") {
		t.Errorf("got %q, want exec.ErrNotFound with the program's name", err)
	}
}

func TestOutput(t *testing.T) {
	var log bytes.Buffer
	got, err := Output(t.Context(), Cmd{
		Args:   []string{"sh", "-c", `cat; echo "$GREETING"; pwd; echo noise >&2`},
		Dir:    "/",
		Env:    []string{"GREETING=hello"},
		Stdin:  strings.NewReader("input\n"),
		Stdout: &log,
	})
	want := "input\nhello\n/\n"
	if err != nil || string(got) != want || log.String() != want {
		t.Errorf("got %q, log %q, %v, want %q twice", got, log.String(), err, want)
	}
}

// Fails under the race detector, and loses bytes without it, if the streams are copied
// to the log at the same time.
func TestOneLogForBothStreams(t *testing.T) {
	const lines = 5000
	script := fmt.Sprintf("count() { i=0; while [ $i -lt %d ]; do echo line; i=$((i+1)); done; }; count & count >&2; wait", lines)
	var log bytes.Buffer
	if err := Run(t.Context(), Cmd{Args: []string{"sh", "-c", script}, Stdout: &log, Stderr: &log}); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Count(log.String(), "line\n"), 2*lines; got != want {
		t.Errorf("got %d lines, want %d", got, want)
	}
}

func TestQuote(t *testing.T) {
	args := []string{"", "plain", "two words", "it's", "'", "''", `"`, "$HOME", "`id`", `back\slash`, "new\nline",
		"~", "*", "#no", "a=b", "-o", "é", "semi;colon", "tab\t", "!", "{a,b}", "@%_+=:,./-"}
	script := `for arg in ` + Quote(args) + `; do printf '%s\0' "$arg"; done`
	got, err := Output(t.Context(), Cmd{Args: []string{"sh", "-c", script}})
	if want := strings.Join(args, "\x00") + "\x00"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, arg := range []string{"plain", "-o", "/usr/bin/env", "KEY=value"} {
		if got := Quote([]string{arg}); got != arg {
			t.Errorf("got %q, want %q as it is", got, arg)
		}
	}
}

func TestCancel(t *testing.T) {
	// A forked shell that was not yet replaced by sleep would swallow SIGTERM in the
	// handler of its parent, so each process says itself that it is there.
	const member = "sh -c 'echo $$; exec sleep 600'"
	tests := []struct {
		name   string
		script string // prints the number of each process that has to die, one a line
		pids   int
		grace  time.Duration
		stays  bool // until SIGKILL
	}{
		{"the whole group gets SIGTERM", member + "& " + member + "& echo $$; wait", 3, time.Minute, false},
		{"SIGKILL after the grace", "trap '' TERM; " + member + "& echo $$; wait", 2, 100 * time.Millisecond, true},
		{"success after SIGTERM is no success", "trap 'exit 0' TERM; " + member + "& echo $$; wait", 2, time.Minute, false},
		// The member holds no output: holding it is TestHeldOutput's matter.
		{"a member ignores SIGTERM", "trap '' TERM; sleep 600 >/dev/null 2>&1 & trap - TERM; echo $!; echo $$; wait", 2, time.Minute, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cause := errors.New("the person lost patience")
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			out, stdout := io.Pipe()
			result := make(chan error, 1)
			go func() {
				result <- Run(ctx, Cmd{Args: []string{"sh", "-c", tt.script}, Stdout: stdout, grace: tt.grace})
				stdout.Close()
			}()
			processes := watch(t, out, tt.pids)
			go io.Copy(io.Discard, out)

			start := time.Now()
			cancel(cause)
			err := <-result
			if took := time.Since(start); tt.stays != (took >= tt.grace) {
				t.Errorf("ended after %v of a grace of %v", took, tt.grace)
			}
			var failure *Error
			if !errors.As(err, &failure) || !errors.Is(err, cause) {
				t.Errorf("got %v, want %v", err, cause)
			}
			for _, p := range processes {
				p.waitGone(t)
			}
		})
	}
}

func TestCancelledBeforeTheStart(t *testing.T) {
	cause := errors.New("too late")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	mark := filepath.Join(t.TempDir(), "mark")
	if err := Run(ctx, Cmd{Args: []string{"touch", mark}}); !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the program ran")
	}
}

// A daemon that a program leaves behind inherits its output, which so never ends.
func TestHeldOutput(t *testing.T) {
	out, stdout := io.Pipe()
	result := make(chan error, 1)
	go func() {
		result <- Run(t.Context(), Cmd{Args: []string{"sh", "-c", "sleep 600 & echo $!"}, Stdout: stdout, grace: 50 * time.Millisecond})
	}()
	daemon := watch(t, out, 1)[0]
	if err := <-result; !errors.Is(err, exec.ErrWaitDelay) {
		t.Errorf("got %v, want %v", err, exec.ErrWaitDelay)
	}
	if err := unix.PidfdSendSignal(daemon.pidfd, unix.SIGKILL, nil, 0); err != nil {
		t.Errorf("end the daemon, which should outlive its parent: %v", err)
	}
	daemon.waitGone(t)
}

// The daemon leaves the process group, so only its namespace can end it. The numbers
// come from /proc, which is the host's: in the namespace $$ is 1.
const isolatedScript = `
pid() { read -r pid rest </proc/self/stat; echo "$pid"; }
mount --make-rprivate /
mount -t tmpfs none "$1"
: >"$1/inside"
setsid sh -c 'read -r pid rest </proc/self/stat; echo "$pid"; exec sleep 600' &
pid
wait`

func TestNamespaces(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, stdout := io.Pipe()
	result := make(chan error, 1)
	go func() {
		result <- Run(ctx, Cmd{Args: []string{"sh", "-ec", isolatedScript, "sh", dir}, Stdout: stdout, Namespaces: isolated})
		stdout.CloseWithError(io.EOF)
	}()
	processes := watch(t, out, 2)

	inside := filepath.Join(fmt.Sprintf("/proc/%d/root", processes[0].pid), dir, "inside")
	if _, err := os.Stat(inside); err != nil {
		t.Errorf("the program's mount: %v", err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
		t.Errorf("the host sees %v, %v in the mount, want nothing", files, err)
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	for _, p := range processes {
		p.waitGone(t)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("%s is still mounted, %v", dir, err)
	}
}

func TestParentDies(t *testing.T) {
	tests := []struct {
		mode   string
		script string
		pids   int
	}{
		{"plain", "echo $$; exec sleep 600", 1},
		{"isolated", isolatedScript, 2},
	}
	for _, tt := range tests {
		t.Run(tt.mode, func(t *testing.T) {
			if tt.mode == "isolated" {
				needRoot(t)
			}
			parent := exec.Command(os.Args[0], "sh", "-ec", tt.script, "sh", t.TempDir())
			parent.Env = append(os.Environ(), asParent+"="+tt.mode)
			out, err := parent.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := parent.Start(); err != nil {
				t.Fatal(err)
			}
			processes := watch(t, out, tt.pids)
			parent.Process.Kill()
			parent.Wait()
			for _, p := range processes {
				p.waitGone(t)
			}
		})
	}
}

// process is a process that is not our child, held so that its number can't be reused.
type process struct{ pid, pidfd int }

// watch reads n process numbers from r, one a line.
func watch(t *testing.T, r io.Reader, n int) []process {
	t.Helper()
	lines := bufio.NewReader(r)
	var processes []process
	for range n {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("read a process number: %v", err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatalf("pidfd_open %d: %v", pid, err)
		}
		p := process{pid, fd}
		t.Cleanup(func() {
			unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
			unix.Close(p.pidfd)
		})
		processes = append(processes, p)
	}
	return processes
}

// waitGone waits until p has ended, be it reaped or not (pidfd_open(2)).
func (p process) waitGone(t *testing.T) {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}, 10_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 || err != nil {
			t.Errorf("process %d still runs after ten seconds, %v", p.pid, err)
		}
		return
	}
}

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root: run: sudo go test ./image/command")
	}
}

func TestStarted(t *testing.T) {
	refused := errors.New("refused")
	err := Run(t.Context(), Cmd{Args: []string{"sleep", "600"}, Started: func(pid int) error {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
			t.Errorf("the program does not run yet: %v", err)
		}
		return refused
	}})
	if !errors.Is(err, refused) {
		t.Errorf("got %v, want %v", err, refused)
	}
}
