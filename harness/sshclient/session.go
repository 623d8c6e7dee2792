package sshclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/crypto/ssh"
)

// Session is one remote command, running or ended.
type Session struct {
	conn *Conn
	ssh  *ssh.Session
	done chan struct{}
	err  error // set before done is closed
}

// Run is [Conn.Start] and [Session.Wait].
func (c *Conn) Run(ctx context.Context, cmd string, stdin io.Reader, stdout, stderr io.Writer) error {
	s, err := c.Start(ctx, cmd, stdin, stdout, stderr)
	if err != nil {
		return err
	}
	return s.Wait()
}

// Start starts cmd in a session of its own, and returns when the server has confirmed
// that it runs. The login shell of the remote user interprets cmd. Streams are binary
// exact; a nil stdin is empty, a nil stdout or stderr is discarded, and the two
// writers are used at the same time. The end of stdin is passed on. A command may end
// without having read all of stdin; a Read that blocks then outlives the session.
//
// When ctx ends before the command, or a stream of this side fails, the whole
// connection is closed, with all its sessions: a server need not obey anything less.
// The error is nil or a [*TransportError].
func (c *Conn) Start(ctx context.Context, cmd string, stdin io.Reader, stdout, stderr io.Writer) (*Session, error) {
	const op = "start command"
	if ctx.Err() != nil {
		return nil, &TransportError{op, context.Cause(ctx)}
	}
	stop := context.AfterFunc(ctx, func() { c.wire.shut(context.Cause(ctx)) })

	s := &Session{conn: c, done: make(chan struct{})}
	if err := s.open(cmd, stdin, stdout, stderr); err != nil {
		if lost := c.lost(); lost != nil {
			err = lost
		}
		stop()
		return nil, &TransportError{op, err}
	}
	go func() {
		s.err = s.wait()
		stop()
		close(s.done)
	}()
	return s, nil
}

// NewSession is the client's, but returns when ended is closed, as that of a connection that has
// ended: a channel opened at the very moment when it ends waits for its answer for ever, even
// after the client was closed.
func NewSession(client *ssh.Client, ended <-chan struct{}) (*ssh.Session, error) {
	type answer struct {
		session *ssh.Session
		err     error
	}
	opened := make(chan answer, 1)
	go func() {
		session, err := client.NewSession()
		opened <- answer{session, err}
	}()
	select {
	case a := <-opened:
		return a.session, a.err
	case <-ended:
		return nil, net.ErrClosed
	}
}

func (s *Session) open(cmd string, stdin io.Reader, stdout, stderr io.Writer) error {
	session, err := NewSession(s.conn.client, s.conn.done)
	if err != nil {
		return err
	}
	s.ssh = session
	session.Stdout = &sink{"stdout", stdout, s.conn.wire}
	session.Stderr = &sink{"stderr", stderr, s.conn.wire}
	// A pipe of our own: x/crypto reports an error for a command that ends without having
	// read all of its input, and sends the end of the input when reading stdin fails.
	in, err := session.StdinPipe()
	if err == nil {
		err = session.Start(cmd)
	}
	if err != nil {
		session.Close()
		return err
	}
	go s.feed(in, stdin)
	return nil
}

// feed copies stdin to the command. A failure to read it counts only while the command
// runs: what a caller does with its reader afterwards is not the connection's business.
func (s *Session) feed(in io.WriteCloser, stdin io.Reader) {
	if stdin != nil {
		source := &source{r: stdin}
		io.Copy(in, source)
		if source.err != nil {
			select {
			case <-s.done:
			default:
				s.conn.wire.shut(fmt.Errorf("read stdin: %w", source.err))
			}
			return
		}
	}
	in.Close()
}

// Wait waits for the command to end and for all of its output. It may be called any
// number of times. The error is nil, an [*ExitError] or a [*TransportError].
func (s *Session) Wait() error {
	<-s.done
	return s.err
}

// Done is closed when Wait would return at once.
func (s *Session) Done() <-chan struct{} { return s.done }

// Signal asks the server to send sig to the command. There is no answer: a server may
// ignore it, as OpenSSH does for a forced command and for root. The error is nil or a
// [*TransportError].
func (s *Session) Signal(sig ssh.Signal) error {
	err := s.ssh.Signal(sig)
	if errors.Is(err, io.EOF) {
		err = errors.New("the command has ended")
	}
	if err != nil {
		return &TransportError{"signal " + string(sig), err}
	}
	return nil
}

func (s *Session) wait() error {
	err := s.ssh.Wait()
	// A channel looks the same whether the server closed it or the connection broke, and
	// OpenSSH sends the exit status before the last of the output: without an answer
	// after the end, status 0 may come with half of the output.
	if lost := s.conn.lost(); lost != nil {
		return &TransportError{"wait for command", lost}
	}
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return &TransportError{"wait for command", err}
	case exit.Signal() != "":
		return &ExitError{Status: -1, Signal: exit.Signal()}
	default:
		return &ExitError{Status: exit.ExitStatus()}
	}
}

// sink is a writer whose failure ends the connection: the command would block on a
// stream that nobody reads.
type sink struct {
	name string
	w    io.Writer
	wire *wire
}

func (s *sink) Write(p []byte) (int, error) {
	if s.w == nil {
		return len(p), nil
	}
	if _, err := s.w.Write(p); err != nil {
		s.wire.shut(fmt.Errorf("write %s: %w", s.name, err))
		s.w = nil
	}
	return len(p), nil
}

// source is a reader that remembers its error, to tell it from the writer's.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != io.EOF {
		s.err = err
	}
	return n, err
}
