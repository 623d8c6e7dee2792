// Package sshtest is an SSH server for tests, inside the test's process: obedient by
// default, misbehaving on request. Like a builder it gives every connection a home of
// its own, which is gone when the connection ends.
package sshtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"ephemeral-builder/harness/sshclient"
)

// Mode is what a server does with a new connection.
type Mode int

const (
	Normal          Mode = iota // serves it
	ClosesAtOnce                // closes it without a word
	ClosesHandshake             // closes it after the exchange of versions
	ClosesLogin                 // closes it when it is offered a key
	PasswordOnly                // takes no keys at all
	Silent                      // accepts it and never speaks
	Stalls                      // authenticates, then answers nothing
	Corrupts                    // serves it, with a wrong byte at 100000 of every output
	Truncates                   // serves it, but no byte of any output from 100000
)

// Commands that the server obeys itself. Everything else goes to sh.
const (
	Drop       = "server:drop"        // end the connection in mid-command
	StatusDrop = "server:status-drop" // half of the output, exit status 0, end the connection
	NoStatus   = "server:no-status"   // end the session without a status
	Refuse     = "server:refuse"      // refuse to run the command
)

// Options of a server. The zero value serves without limits.
type Options struct {
	Mode           Mode
	MaxConnections int // more of them are closed at once; 0: no limit
	MaxSessions    int // per connection, more of them are rejected; 0: no limit
	MaxAuthTries   int // as in ssh.ServerConfig

	Identity ssh.Signer // of the builder; one of its own if nil
}

// Server is a running server.
type Server struct {
	Addr     string // host:port
	Target   sshclient.Target
	options  Options
	config   *ssh.ServerConfig
	listener net.Listener
	homes    string

	mu      sync.Mutex
	conns   map[net.Conn]bool // open connections
	running sync.WaitGroup
}

// Start starts a server on a free port of the loopback interface. It ends with the test.
func Start(t testing.TB, options Options) *Server {
	t.Helper()
	hostKey, identity := Key(t), options.Identity
	if identity == nil {
		identity = Key(t)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		Addr:     listener.Addr().String(),
		options:  options,
		listener: listener,
		homes:    t.TempDir(),
		conns:    make(map[net.Conn]bool),
	}
	s.Target = sshclient.Target{Addr: s.Addr, User: "builder", Identity: identity, HostKey: hostKey.PublicKey()}
	s.config = &ssh.ServerConfig{
		MaxAuthTries: options.MaxAuthTries,
		PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if meta.User() == "builder" && string(key.Marshal()) == string(identity.PublicKey().Marshal()) {
				return nil, nil
			}
			return nil, errors.New("unknown key")
		},
	}
	s.config.AddHostKey(hostKey)
	s.config.AddHostKey(otherKey(t)) // clients must ask for the one they know
	s.running.Go(s.accept)
	t.Cleanup(s.Stop)
	return s
}

// Key is a fresh key pair.
func Key(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// otherKey is a key of the type that x/crypto's client likes best.
func otherKey(t testing.TB) ssh.Signer {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// DropAll ends every open connection, without a word.
func (s *Server) DropAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		conn.Close()
	}
}

// Stop ends the server with all its connections: nothing listens any more.
func (s *Server) Stop() {
	s.listener.Close()
	s.DropAll()
	s.running.Wait()
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		full := s.options.MaxConnections > 0 && len(s.conns) >= s.options.MaxConnections
		if !full {
			s.conns[conn] = true
		}
		s.mu.Unlock()
		if full || s.options.Mode == ClosesAtOnce {
			s.forget(conn)
			continue
		}
		s.running.Go(func() {
			defer s.forget(conn)
			s.serve(conn)
		})
	}
}

func (s *Server) forget(conn net.Conn) {
	conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

func (s *Server) serve(raw net.Conn) {
	switch s.options.Mode {
	case Silent:
		io.Copy(io.Discard, raw)
		return
	case ClosesHandshake:
		io.WriteString(raw, "SSH-2.0-sshtest\r\n")
		raw.Read(make([]byte, 1))
		return
	}
	config := *s.config
	switch s.options.Mode {
	case ClosesLogin:
		config.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
			raw.Close()
			return nil, io.EOF
		}
	case PasswordOnly:
		config.PublicKeyCallback = nil
		config.PasswordCallback = func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, io.EOF }
	}
	conn, channels, requests, err := ssh.NewServerConn(raw, &config)
	if err != nil {
		return
	}
	defer conn.Close()
	if s.options.Mode == Stalls {
		conn.Wait()
		return
	}
	go ssh.DiscardRequests(requests)
	home, err := os.MkdirTemp(s.homes, "home")
	if err != nil {
		return
	}
	defer os.RemoveAll(home)
	end := make(chan struct{})
	var sessions sync.WaitGroup
	open := make(chan struct{}, max(s.options.MaxSessions, 1))
	for channel := range channels {
		if s.options.MaxSessions > 0 {
			select {
			case open <- struct{}{}:
			default:
				channel.Reject(ssh.ResourceShortage, "too many sessions")
				continue
			}
		}
		sessions.Go(func() {
			s.session(raw, channel, home, end)
			if s.options.MaxSessions > 0 {
				<-open
			}
		})
	}
	close(end)
	sessions.Wait()
}

// hangUp ends a connection for the client, and for the server when the client has noticed: whose place
// it takes knows then that it has.
func hangUp(raw net.Conn) {
	if tcp, ok := raw.(*net.TCPConn); ok {
		tcp.CloseWrite()
	}
}

// session serves one channel until its command has ended. The command and all its
// children are killed when end is closed.
func (s *Server) session(raw net.Conn, newChannel ssh.NewChannel, home string, end <-chan struct{}) {
	ch, requests, err := newChannel.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	var line struct{ Command string }
	request, ok := <-requests
	if !ok || request.Type != "exec" || ssh.Unmarshal(request.Payload, &line) != nil || line.Command == Refuse {
		if ok {
			request.Reply(false, nil)
		}
		return
	}
	switch line.Command {
	case Drop:
		request.Reply(true, nil)
		hangUp(raw)
		return
	case StatusDrop:
		request.Reply(true, nil)
		io.WriteString(ch, "half")
		exitStatus(ch, 0)
		hangUp(raw)
		return
	case NoStatus:
		request.Reply(true, nil)
		return
	}

	// os/exec itself, as the SSH signals need the process's id.
	cmd := exec.Command("sh", "-c", line.Command)
	cmd.Dir = home
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	if s.options.Mode == Corrupts || s.options.Mode == Truncates {
		cmd.Stdout = &faulty{w: ch, mode: s.options.Mode}
	}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		request.Reply(false, nil)
		return
	}
	request.Reply(true, nil)
	go func() {
		io.Copy(stdin, ch)
		stdin.Close()
	}()
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	for {
		select {
		case <-end:
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
			return
		case r, ok := <-requests:
			if !ok {
				requests = nil
				continue
			}
			var name struct{ Name string }
			if r.Type == "signal" && ssh.Unmarshal(r.Payload, &name) == nil {
				syscall.Kill(-cmd.Process.Pid, signals[name.Name])
			}
			r.Reply(false, nil)
		case <-ended:
			if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
				exitSignal(ch, status.Signal())
			} else {
				exitStatus(ch, status.ExitStatus())
			}
			return
		}
	}
}

// faulty is an output with the fault of mode.
type faulty struct {
	w    io.Writer
	mode Mode
	n    int
}

func (f *faulty) Write(p []byte) (int, error) {
	from := f.n
	f.n += len(p)
	out := p
	if at := 100000 - from; at < len(p) {
		if f.mode == Truncates {
			out = p[:max(at, 0)]
		} else if at >= 0 {
			out = bytes.Clone(p)
			out[at] ^= 1
		}
	}
	_, err := f.w.Write(out)
	return len(p), err
}

var signals = map[string]syscall.Signal{
	"INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "TERM": syscall.SIGTERM, "USR1": syscall.SIGUSR1,
}

func exitStatus(ch ssh.Channel, status int) {
	ch.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, uint32(status)))
}

func exitSignal(ch ssh.Channel, sig syscall.Signal) {
	for name, s := range signals {
		if s == sig {
			ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
				Name    string
				Core    bool
				Message string
				Lang    string
			}{Name: name}))
		}
	}
}
