package script

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	cryptossh "golang.org/x/crypto/ssh"

	"ephemeral-builder/harness/sshclient"
)

func (s *script) ssh(ctx context.Context, c *call) error {
	var o options
	var name, cmd string
	if err := c.parse(o.all, &name, &cmd); err != nil {
		return err
	}
	conn, err := s.alive(name)
	if err != nil {
		return err
	}
	return c.run(o, func(stdin io.Reader, stdout io.Writer) error {
		return conn.Run(ctx, cmd, stdin, stdout, c.stderr)
	})
}

func (s *script) host(ctx context.Context, c *call) error {
	var o options
	var on, cmd string
	err := c.parse(func(f *flag.FlagSet) {
		o.all(f)
		f.StringVar(&on, "on", "", "")
	}, &cmd)
	if err != nil {
		return err
	}
	shell := s.env.Host
	if on != "" {
		if shell, err = s.other(on); err != nil {
			return err
		}
	}
	if shell == nil {
		return misuse("this lab offers no shell of its host")
	}
	err = c.run(o, func(stdin io.Reader, stdout io.Writer) error {
		return shell(ctx, cmd, stdin, stdout, c.stderr)
	})
	if errors.Is(err, sshclient.ErrClosed) {
		return &permanent{err}
	}
	return err
}

// restart has limits of its own, as a boot takes what it takes.
func (s *script) restart(ctx context.Context, c *call) error {
	if err := c.parse(nil); err != nil {
		return err
	}
	if s.env.Restart == nil {
		return misuse("this lab can't be restarted")
	}
	return s.env.Restart(ctx)
}

func (s *script) halt(ctx context.Context, c *call) error {
	var name string
	if err := c.parse(nil, &name); err != nil {
		return err
	}
	if _, err := s.other(name); err != nil {
		return err
	}
	s.halted[name] = true
	return s.env.Halt(ctx, name)
}

// other is the host NAME of a fleet, which must run.
func (s *script) other(name string) (Shell, error) {
	shell, ok := s.env.Hosts[name]
	if !ok {
		return nil, misuse(fmt.Sprintf("there is no host %q beside this one: choose one of %q", name, slices.Sorted(maps.Keys(s.env.Hosts))))
	}
	if s.halted[name] {
		return nil, misuse(fmt.Sprintf("%s was halted already", name))
	}
	return shell, nil
}

// run runs a command with the streams that o names, and judges its result.
func (c *call) run(o options, command func(stdin io.Reader, stdout io.Writer) error) error {
	if err := c.check(o); err != nil {
		return err
	}
	stdin, err := c.open(o.stdin)
	if err != nil {
		return err
	}
	defer stdin.Close()
	if o.stdout == "" {
		return o.judge(command(stdin, c.stdout))
	}
	stdout, err := os.Create(c.ts.MkAbs(o.stdout))
	if err != nil {
		return misuse(err.Error())
	}
	err = command(stdin, stdout)
	if closeErr := stdout.Close(); closeErr != nil {
		return closeErr
	}
	return o.judge(err)
}

// session is a command that start started.
type session struct {
	*sshclient.Session
	stdout, stderr capture
}

// start leaves the command's deadline to finish: it may run as long as the script.
func (s *script) start(ctx context.Context, c *call) error {
	var o options
	var id, name, cmd string
	if err := c.parse(o.in, &id, &name, &cmd); err != nil {
		return err
	}
	if s.sessions[id] != nil {
		return misuse(fmt.Sprintf("there is a command %s already: use finish", id))
	}
	conn, err := s.alive(name)
	if err != nil {
		return err
	}
	stdin, err := c.open(o.stdin)
	if err != nil {
		return err
	}
	s.files = append(s.files, stdin)
	started := new(session)
	running, cancel := context.WithCancelCause(s.ctx)
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	started.Session, err = conn.Start(running, cmd, stdin, &started.stdout, &started.stderr)
	stop()
	if err == nil {
		s.sessions[id] = started
	}
	return err
}

func (s *script) finish(ctx context.Context, c *call) error {
	var o options
	var id string
	if err := c.parse(o.result, &id); err != nil {
		return err
	}
	if err := c.check(o); err != nil {
		return err
	}
	started, err := s.session(id)
	if err != nil {
		return err
	}
	select {
	case <-started.Done():
		delete(s.sessions, id)
		err = o.judge(started.Wait())
	case <-ctx.Done():
		err = fmt.Errorf("%s still runs: %w", id, context.Cause(ctx))
	}
	io.WriteString(c.stdout, started.stdout.String())
	io.WriteString(c.stderr, started.stderr.String())
	return err
}

func (s *script) signal(_ context.Context, c *call) error {
	var id, name string
	if err := c.parse(nil, &id, &name); err != nil {
		return err
	}
	if !isSignal(name) {
		return misuse(fmt.Sprintf("%s is not a signal, such as KILL", name))
	}
	started, err := s.session(id)
	if err != nil {
		return err
	}
	return started.Signal(cryptossh.Signal(name))
}

func (s *script) session(id string) (*session, error) {
	started, ok := s.sessions[id]
	if !ok {
		return nil, misuse(fmt.Sprintf("there is no command %s: use start", id))
	}
	return started, nil
}

// options of a verb that runs a command.
type options struct{ stdin, stdout, status string }

func (o *options) in(f *flag.FlagSet)     { f.StringVar(&o.stdin, "stdin", "", "") }
func (o *options) out(f *flag.FlagSet)    { f.StringVar(&o.stdout, "stdout", "", "") }
func (o *options) result(f *flag.FlagSet) { f.StringVar(&o.status, "status", "", "") }

func (o *options) all(f *flag.FlagSet) {
	o.in(f)
	o.out(f)
	o.result(f)
}

// check refuses a status that cannot be, before the command runs.
func (c *call) check(o options) error {
	if o.status == "" {
		return nil
	}
	if c.neg {
		return misuse("-status says what must happen: use it without !")
	}
	if n, err := strconv.ParseUint(o.status, 10, 8); (err != nil || fmt.Sprint(n) != o.status) && !isSignal(o.status) {
		return misuse(fmt.Sprintf("%s is neither a status from 0 to 255 nor a signal, such as KILL", o.status))
	}
	return nil
}

// judge compares a command's result with the wanted one.
func (o options) judge(err error) error {
	var transport *sshclient.TransportError
	var exit *sshclient.ExitError
	if errors.As(err, &transport) || err != nil && !errors.As(err, &exit) {
		return err // nothing is known about the command
	}
	switch {
	case o.status == "" && err != nil:
		return &failed{err}
	case o.status == "":
		return nil
	}
	got := "0"
	if exit != nil {
		got = fmt.Sprint(exit.Status)
		if exit.Signal != "" {
			got = exit.Signal
		}
	}
	if got != o.status {
		return fmt.Errorf("the command ended with %s, want %s", got, o.status)
	}
	return nil
}

// open opens the FILE of -stdin; none is empty.
func (c *call) open(file string) (io.ReadCloser, error) {
	switch file {
	case "":
		return io.NopCloser(strings.NewReader("")), nil
	case "stdout", "stderr":
		return io.NopCloser(strings.NewReader(c.ts.ReadFile(file))), nil
	}
	f, err := os.Open(c.ts.MkAbs(file))
	if err != nil {
		return nil, misuse(err.Error())
	}
	return f, nil
}

// isSignal knows the names of RFC 4254, 6.10.
func isSignal(name string) bool {
	switch cryptossh.Signal(name) {
	case cryptossh.SIGABRT, cryptossh.SIGALRM, cryptossh.SIGFPE, cryptossh.SIGHUP, cryptossh.SIGILL,
		cryptossh.SIGINT, cryptossh.SIGKILL, cryptossh.SIGPIPE, cryptossh.SIGQUIT, cryptossh.SIGSEGV,
		cryptossh.SIGTERM, cryptossh.SIGUSR1, cryptossh.SIGUSR2:
		return true
	}
	return false
}
