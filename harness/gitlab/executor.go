package gitlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"ephemeral-builder/harness/sshclient"
)

// Executor looks like the runner's SSH executor: executors/ssh/ssh.go and helpers/ssh there.
type Executor struct {
	Settings
	Addr     string // host:port
	User     string
	Identity ssh.Signer
	HostKey  ssh.HostKeyCallback
}

// The runner dials three times, and prepares a job three times, 3 s apart: what is refused is
// refused nine times.
const (
	dials, preparations = 3, 3
	pause               = 3 * time.Second
)

// Cancel is how a job can be told to end.
type Cancel int

const (
	// Hard is what "canceled" does: all ends.
	Hard Cancel = iota + 1
	// Graceful is what "canceling" does: the script ends, after_script runs.
	Graceful
)

// Result is how a job ended.
type Result struct {
	ExitCode int   // of a script that failed, with none of the others
	Canceled bool  // as it was told to
	TimedOut bool  // after the time that the job says
	System   error // what the runner calls a system failure: it says nothing of the script
	Dials    int   // connections that were tried
}

// String is what the runner writes at the end of a job's log.
func (r Result) String() string {
	switch {
	case r.System != nil:
		return fmt.Sprintf("ERROR: Job failed (system failure): %v", r.System)
	case r.Canceled:
		return "ERROR: Job failed: canceled"
	case r.TimedOut:
		return "ERROR: Job failed: execution took longer than its timeout"
	case r.ExitCode != 0:
		return fmt.Sprintf("ERROR: Job failed: Process exited with status %d", r.ExitCode)
	}
	return "Job succeeded"
}

// The ends of stages that were told to.
var (
	errCanceled  = errors.New("canceled")
	errCanceling = errors.New("canceled gracefully")
	errTimeout   = errors.New("execution took longer than the timeout")
)

// Run carries out a job on one connection, with a session for each of its stages, one after the
// other, and writes what they print to log. It ends when the job does, or closes the connection
// when ctx ends.
func (e Executor) Run(ctx context.Context, j Job, log io.Writer, cancel <-chan Cancel) Result {
	log = &locked{w: log}
	client, tried, err := e.prepare(ctx)
	r := Result{Dials: tried}
	if err != nil {
		r.System = fmt.Errorf("prepare environment: %w", err)
		return r
	}
	defer client.Close()
	ctx, ended := context.WithCancel(ctx)
	defer ended()
	context.AfterFunc(ctx, func() { client.Close() })
	go func() {
		_ = client.Wait()
		ended()
	}()

	timer := time.NewTimer(time.Duration(j.Runner.Timeout) * time.Second)
	defer timer.Stop()
	stop := make(chan error, 1)
	go func() {
		select {
		case how := <-cancel:
			stop <- map[Cancel]error{Hard: errCanceled, Graceful: errCanceling}[how]
		case <-timer.C:
			stop <- errTimeout
		case <-ctx.Done():
		}
	}()
	run := func(all []stage, stop <-chan error) (err error) {
		for _, s := range all {
			if err = e.stage(ctx, client, s, log, stop); err != nil {
				break
			}
		}
		return err
	}
	stages := e.stages(j)
	failed := run(stages[before], stop)
	if !errors.Is(failed, errCanceled) {
		// Its outcome is not the job's.
		_ = run(stages[after], nil)
	}
	if failed == nil {
		failed = run(stages[onSuccess], stop)
	}
	if !errors.Is(failed, errCanceled) {
		_ = run(stages[always], nil)
	}
	var exit *ssh.ExitError
	switch {
	case failed == nil:
	case errors.Is(failed, errCanceled), errors.Is(failed, errCanceling):
		r.Canceled = true
	case errors.Is(failed, errTimeout):
		r.TimedOut = true
	case errors.As(failed, &exit) && exit.Signal() == "":
		r.ExitCode = exit.ExitStatus()
	default:
		r.System = failed
	}
	return r
}

// prepare connects, as often as the runner tries it.
func (e Executor) prepare(ctx context.Context) (client *ssh.Client, tried int, err error) {
	for range preparations * dials {
		if tried > 0 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil, tried, context.Cause(ctx)
			}
		}
		tried++
		if client, err = e.dial(ctx); err == nil {
			return client, tried, nil
		}
	}
	return nil, tried, fmt.Errorf("ssh command Connect() error: %w", err)
}

// dial has the runner's configuration: a password, if only an empty one, before the key, and no
// choice of host key algorithms.
func (e Executor) dial(ctx context.Context) (*ssh.Client, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", e.Addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	conn, channels, requests, err := ssh.NewClientConn(raw, e.Addr, &ssh.ClientConfig{
		User:            e.User,
		Auth:            []ssh.AuthMethod{ssh.Password(""), ssh.PublicKeys(e.Identity)},
		HostKeyCallback: e.HostKey,
	})
	if err != nil {
		raw.Close()
		return nil, err
	}
	return ssh.NewClient(conn, channels, requests), nil
}

// stage runs one script. One that is stopped gets the signal KILL, and its session is closed. ctx
// ends with the connection.
func (e Executor) stage(ctx context.Context, client *ssh.Client, s stage, log io.Writer, stop <-chan error) error {
	session, err := sshclient.NewSession(client, ctx.Done())
	if err != nil {
		return err
	}
	defer session.Close()
	session.Stdin = strings.NewReader(s.script)
	session.Stdout, session.Stderr = log, log
	if err := session.Start("bash -l"); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- session.Wait() }()
	select {
	case err := <-ended:
		return err
	case why := <-stop:
		_ = session.Signal(ssh.SIGKILL)
		_ = session.Close()
		<-ended
		return why
	}
}

// locked lets both streams of a session write to one log.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
