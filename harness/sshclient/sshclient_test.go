package sshclient_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"ephemeral-builder/harness/sshclient"
	"ephemeral-builder/harness/sshclient/sshtest"
)

// TestMain fails when a goroutine of a connection outlives the tests.
func TestMain(m *testing.M) {
	status := m.Run()
	tick := time.NewTicker(10 * time.Millisecond)
	timeout := time.After(5 * time.Second)
	for {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		var leaked []string
		for stack := range strings.SplitSeq(string(stacks), "\n\n") {
			// Rarely, on a busy machine: what open in session.go knows of.
			if strings.Contains(stack, "ssh.(*mux).openChannel(") {
				continue
			}
			if strings.Contains(stack, "x/crypto/ssh") || strings.Contains(stack, "sshclient.(") {
				leaked = append(leaked, stack)
			}
		}
		if len(leaked) == 0 {
			os.Exit(status)
		}
		select {
		case <-tick.C:
		case <-timeout:
			fmt.Printf("%d goroutines leaked:\n\n%s\n", len(leaked), strings.Join(leaked, "\n\n"))
			os.Exit(1)
		}
	}
}

func dial(t *testing.T, server *sshtest.Server) *sshclient.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := sshclient.Dial(ctx, server.Target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// wantTransport fails unless err is a TransportError, and only that.
func wantTransport(t *testing.T, err error) {
	t.Helper()
	var transport *sshclient.TransportError
	var exit *sshclient.ExitError
	if !errors.As(err, &transport) || errors.As(err, &exit) {
		t.Fatalf("got %v (%T), want a *TransportError", err, err)
	}
}

var kinds = []error{sshclient.ErrRefused, sshclient.ErrClosed, sshclient.ErrAuth, sshclient.ErrHostKey, context.DeadlineExceeded}

// wantKind fails unless err is a TransportError of exactly one kind; nil means none of them.
func wantKind(t *testing.T, err, want error) {
	t.Helper()
	wantTransport(t, err)
	for _, kind := range kinds {
		if got := errors.Is(err, kind); got != (kind == want) {
			t.Errorf("%q is %q: got %v, want %v", err, kind, got, kind == want)
		}
	}
}

func TestRun(t *testing.T) {
	conn := dial(t, sshtest.Start(t, sshtest.Options{}))
	binary := string([]byte{0, 1, 0xff, '\r', '\n', 4, 3, 0x7f, 0})
	for _, test := range []struct {
		cmd, stdin     string
		stdout, stderr string
		err            string // of an ExitError
	}{
		{cmd: "echo out; echo err >&2", stdout: "out\n", stderr: "err\n"},
		{cmd: "cat", stdin: binary, stdout: binary},
		{cmd: "cat; echo end", stdout: "end\n"},
		{cmd: "exit 42", err: "exit status 42"},
		{cmd: "exit 255", err: "exit status 255"},
		{cmd: "echo out; exit 1", stdout: "out\n", err: "exit status 1"},
		{cmd: "kill -TERM $$", err: "ended by signal TERM"},
		{cmd: "true", stdin: strings.Repeat("unread", 1<<20)},
		{cmd: "false", stdin: strings.Repeat("unread", 1<<20), err: "exit status 1"},
	} {
		t.Run(test.cmd, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			err := conn.Run(t.Context(), test.cmd, strings.NewReader(test.stdin), &stdout, &stderr)
			var exit *sshclient.ExitError
			if test.err == "" && err != nil || test.err != "" && (!errors.As(err, &exit) || err.Error() != test.err) {
				t.Errorf("got error %v, want %q", err, test.err)
			}
			if stdout.String() != test.stdout {
				t.Errorf("got stdout %q, want %q", &stdout, test.stdout)
			}
			if stderr.String() != test.stderr {
				t.Errorf("got stderr %q, want %q", &stderr, test.stderr)
			}
		})
	}
}

func TestRunWithoutStreams(t *testing.T) {
	conn := dial(t, sshtest.Start(t, sshtest.Options{}))
	if err := conn.Run(t.Context(), "cat; echo lost; echo lost >&2", nil, nil, nil); err != nil {
		t.Fatal(err)
	}
}

// Every way not to learn a command's result is a transport error.
func TestRunTransportErrors(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{MaxSessions: 1})
	for _, test := range []struct {
		cmd  string
		kind error
		text string
	}{
		{sshtest.Drop, sshclient.ErrClosed, ""},
		{sshtest.StatusDrop, sshclient.ErrClosed, ""},
		{sshtest.NoStatus, nil, "without exit status or exit signal"},
		{sshtest.Refuse, nil, "start command: "},
	} {
		t.Run(test.cmd, func(t *testing.T) {
			conn := dial(t, server)
			var stdout bytes.Buffer
			err := conn.Run(t.Context(), test.cmd, nil, &stdout, nil)
			wantKind(t, err, test.kind)
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %q, want %q in it", err, test.text)
			}
			if alive := conn.Err() == nil; alive != (test.kind == nil) {
				t.Errorf("got connection error %v after %v", conn.Err(), err)
			}
		})
	}
	t.Run("too many sessions", func(t *testing.T) {
		conn := dial(t, server)
		if _, err := conn.Start(t.Context(), "exec sleep 1000", nil, nil, nil); err != nil {
			t.Fatal(err)
		}
		wantKind(t, conn.Run(t.Context(), "true", nil, nil, nil), nil)
	})
}

func TestDialErrors(t *testing.T) {
	normal := sshtest.Start(t, sshtest.Options{}).Target
	unused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unused.Close()

	with := func(change func(*sshclient.Target)) sshclient.Target {
		target := normal
		change(&target)
		return target
	}
	mode := func(m sshtest.Mode) sshclient.Target {
		return sshtest.Start(t, sshtest.Options{Mode: m}).Target
	}
	for _, test := range []struct {
		name   string
		target sshclient.Target
		want   error
	}{
		{"nothing listens", with(func(c *sshclient.Target) { c.Addr = unused.Addr().String() }), sshclient.ErrRefused},
		{"closes at once", mode(sshtest.ClosesAtOnce), sshclient.ErrClosed},
		{"closes in the handshake", mode(sshtest.ClosesHandshake), sshclient.ErrClosed},
		{"closes in the login", mode(sshtest.ClosesLogin), sshclient.ErrClosed},
		{"takes no keys", mode(sshtest.PasswordOnly), nil}, // the key was not refused, but never tried
		{"silent", mode(sshtest.Silent), context.DeadlineExceeded},
		{"wrong key", with(func(c *sshclient.Target) { c.Identity = sshtest.Key(t) }), sshclient.ErrAuth},
		{"wrong user", with(func(c *sshclient.Target) { c.User = "root" }), sshclient.ErrAuth},
		{"wrong key, one try", func() sshclient.Target {
			target := sshtest.Start(t, sshtest.Options{MaxAuthTries: 1}).Target
			target.Identity = sshtest.Key(t)
			return target
		}(), sshclient.ErrAuth},
		{"wrong host key", with(func(c *sshclient.Target) { c.HostKey = sshtest.Key(t).PublicKey() }), sshclient.ErrHostKey},
		{"no host key", with(func(c *sshclient.Target) { c.HostKey = nil }), nil},
		{"no port", with(func(c *sshclient.Target) { c.Addr = "localhost" }), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			limit := 10 * time.Second
			if test.want == context.DeadlineExceeded {
				limit = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := sshclient.Dial(ctx, test.target)
			wantKind(t, err, test.want)
		})
	}
}

func TestDialCancelled(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Mode: sshtest.Silent})
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the lab is gone")
	cancel(cause)
	_, err := sshclient.Dial(ctx, server.Target)
	wantTransport(t, err)
	if !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
}

// Two sessions of one connection run at once: each waits for the other's file.
func TestSessionsAreConcurrent(t *testing.T) {
	conn := dial(t, sshtest.Start(t, sshtest.Options{}))
	var both sync.WaitGroup
	for _, cmd := range []string{
		"touch one; until test -e two; do sleep 0.01; done",
		"touch two; until test -e one; do sleep 0.01; done",
	} {
		both.Go(func() {
			if err := conn.Run(t.Context(), cmd, nil, nil, nil); err != nil {
				t.Errorf("%s: %v", cmd, err)
			}
		})
	}
	both.Wait()
}

func TestManySessions(t *testing.T) {
	conn := dial(t, sshtest.Start(t, sshtest.Options{}))
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			var stdout bytes.Buffer
			err := conn.Run(t.Context(), fmt.Sprintf("cat; exit %d", i), strings.NewReader(fmt.Sprint(i)), &stdout, nil)
			var exit *sshclient.ExitError
			if i > 0 && (!errors.As(err, &exit) || exit.Status != i) || i == 0 && err != nil {
				t.Errorf("session %d: got %v", i, err)
			}
			if stdout.String() != fmt.Sprint(i) {
				t.Errorf("session %d: got %q", i, &stdout)
			}
		})
	}
	all.Wait()
}

// 100 MB go both ways at once, beside a session that is used in the meantime.
func TestLargeBothWays(t *testing.T) {
	conn := dial(t, sshtest.Start(t, sshtest.Options{}))
	const size = 100 << 20
	random := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{}), size) }
	want, got := sha256.New(), sha256.New()
	io.Copy(want, random())
	session, err := conn.Start(t.Context(), "cat", random(), got, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Run(t.Context(), "true", nil, nil, nil); err != nil {
		t.Error(err)
	}
	if err := session.Wait(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("the bytes that came back are not the ones that were sent")
	}
}

func TestSignal(t *testing.T) {
	conn := dial(t, sshtest.Start(t, sshtest.Options{}))
	session, err := conn.Start(t.Context(), "exec sleep 1000", nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Signal(ssh.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var exit *sshclient.ExitError
	if err := session.Wait(); !errors.As(err, &exit) || *exit != (sshclient.ExitError{Status: -1, Signal: "KILL"}) {
		t.Errorf("got %v, want the end by signal KILL", err)
	}
	wantTransport(t, session.Signal(ssh.SIGKILL))
}

func TestServerGoesAway(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{})
	conn := dial(t, server)
	started, pipe := io.Pipe()
	session, err := conn.Start(t.Context(), "echo; exec sleep 1000", nil, pipe, nil)
	if err != nil {
		t.Fatal(err)
	}
	started.Read(make([]byte, 1))
	if err := conn.Err(); err != nil {
		t.Fatalf("the connection lasts, but got %v", err)
	}
	server.DropAll()
	wantKind(t, session.Wait(), sshclient.ErrClosed)
	<-conn.Done()
	wantKind(t, conn.Err(), sshclient.ErrClosed)
	wantKind(t, conn.Run(t.Context(), "true", nil, nil, nil), sshclient.ErrClosed)
	wantTransport(t, session.Signal(ssh.SIGKILL))

	conn.Close()
	wantKind(t, conn.Err(), sshclient.ErrClosed) // Close does not rewrite history
}

// Sessions that are opened while the connection breaks return, whatever they have reached.
func TestStartWhileServerGoesAway(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{})
	for range 20 {
		conn := dial(t, server)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for {
					if err := conn.Run(t.Context(), sshtest.Refuse, nil, nil, nil); errors.Is(err, sshclient.ErrClosed) {
						return
					}
				}
			})
		}
		server.DropAll()
		all.Wait()
	}
}

func TestClose(t *testing.T) {
	conn := dial(t, sshtest.Start(t, sshtest.Options{}))
	session, err := conn.Start(t.Context(), "exec sleep 1000", nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	<-conn.Done()
	wantKind(t, conn.Err(), nil)
	wantKind(t, session.Wait(), nil)
	wantKind(t, conn.Run(t.Context(), "true", nil, nil, nil), nil)
}

// The end of a context ends a command that would not, and a server that says nothing.
func TestContextEnds(t *testing.T) {
	t.Run("command", func(t *testing.T) {
		conn := dial(t, sshtest.Start(t, sshtest.Options{}))
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		wantKind(t, conn.Run(ctx, "exec sleep 1000", nil, nil, nil), context.DeadlineExceeded)
		wantKind(t, conn.Err(), context.DeadlineExceeded)
	})
	t.Run("stalled server", func(t *testing.T) {
		conn := dial(t, sshtest.Start(t, sshtest.Options{Mode: sshtest.Stalls}))
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		wantKind(t, conn.Run(ctx, "true", nil, nil, nil), context.DeadlineExceeded)
	})
	t.Run("before the start", func(t *testing.T) {
		conn := dial(t, sshtest.Start(t, sshtest.Options{}))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		wantTransport(t, conn.Run(ctx, "true", nil, nil, nil))
		if err := conn.Err(); err != nil {
			t.Errorf("the connection was not needed, but got %v", err)
		}
	})
}

type broken struct{}

func (broken) Read([]byte) (int, error)  { return 0, errors.New("disk on fire") }
func (broken) Write([]byte) (int, error) { return 0, errors.New("disk on fire") }

func TestBrokenStreams(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{})
	for name, run := range map[string]func(*sshclient.Conn) error{
		"stdin":  func(c *sshclient.Conn) error { return c.Run(t.Context(), "cat", broken{}, nil, nil) },
		"stdout": func(c *sshclient.Conn) error { return c.Run(t.Context(), "yes", nil, broken{}, nil) },
		"stderr": func(c *sshclient.Conn) error { return c.Run(t.Context(), "yes >&2", nil, nil, broken{}) },
	} {
		t.Run(name, func(t *testing.T) {
			err := run(dial(t, server))
			wantKind(t, err, nil)
			if !strings.Contains(err.Error(), name+": disk on fire") {
				t.Errorf("got %q, want %q in it", err, name+": disk on fire")
			}
		})
	}
}

// A reader that fails after the command's end does not harm the connection.
func TestStdinFailsLater(t *testing.T) {
	conn := dial(t, sshtest.Start(t, sshtest.Options{}))
	stdin, pipe := io.Pipe()
	if err := conn.Run(t.Context(), "true", stdin, nil, nil); err != nil {
		t.Fatal(err)
	}
	pipe.CloseWithError(errors.New("no longer wanted"))
	if err := conn.Run(t.Context(), "true", nil, nil, nil); err != nil {
		t.Error(err)
	}
}
