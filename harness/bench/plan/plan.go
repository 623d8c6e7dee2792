// Package plan is what is measured of servers that give each SSH connection a machine, and
// the measuring itself.
package plan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/crypto/ssh"

	"ephemeral-builder/harness/bench/trace"
)

// Plan says what to measure. In each round every contender has its turn once, in an order
// that is drawn anew, so that what else goes on meets all of them alike.
type Plan struct {
	Contenders []Contender `json:"contenders"`
	Warmup     int         `json:"warmup"`  // rounds that don't count
	Rounds     int         `json:"rounds"`  // that do
	Clients    int         `json:"clients"` // that connect at the same time, each Each times in its turn
	Each       int         `json:"each"`
	Command    string      `json:"command"` // what each connection runs
	Timeout    Duration    `json:"timeout"` // of one connection
	Trace      bool        `json:"trace"`   // record which programs start meanwhile; for one client
	Pause      Duration    `json:"pause"`   // after each turn, so that what it leaves to do is not the next one's time
}

// Contender is one server.
type Contender struct {
	Name     string `json:"name"`
	Addr     string `json:"addr"` // host:port
	User     string `json:"user"`
	Identity string `json:"identity"` // private key, as OpenSSH writes it
	HostKey  string `json:"host_key"` // public key, as in authorized_keys

	Used string `json:"used,omitempty"` // a folder that is empty when nothing is left of a connection
}

// Sample is one connection. Its times are since the dial.
type Sample struct {
	Contender string    `json:"contender"`
	Round     int       `json:"round"` // from 0; the warm-up is not told
	Client    int       `json:"client"`
	Start     time.Time `json:"start"`

	Connected Duration `json:"connected"` // TCP
	Banner    Duration `json:"banner"`    // the server's first byte
	Kex       Duration `json:"kex"`       // the server has shown its host key
	Auth      Duration `json:"auth"`      // the user is logged in
	Done      Duration `json:"done"`      // the command has ended
	Freed     Duration `json:"freed"`     // since the close, with one client: Contender.Used is empty

	// The connection's share of what all cores did in the turn, and did not do.
	Busy Duration `json:"busy,omitzero"`
	Idle Duration `json:"idle,omitzero"`

	Error string `json:"error,omitempty"` // then the times that are missing are zero

	Output string        `json:"output,omitempty"` // of the command
	Dialed Duration      `json:"dialed,omitzero"`  // with Plan.Trace: on the clock of Events
	Events []trace.Event `json:"events,omitempty"` // until the end of the command
}

// Duration is a time.Duration that JSON has in nanoseconds.
type Duration = time.Duration

// Run carries out the plan, and hands each sample to emit. A connection that fails is a
// sample, too. The error is that of emit, of ctx or of a plan that can't be carried out.
func (p Plan) Run(ctx context.Context, emit func(Sample) error) (err error) {
	targets, err := p.targets()
	if err != nil {
		return err
	}
	var tracer *trace.Tracer
	if p.Trace {
		if tracer, err = trace.Start(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, tracer.Close()) }()
	}
	for round := -p.Warmup; round < p.Rounds; round++ {
		for _, i := range rand.Perm(len(targets)) {
			samples, err := p.turn(ctx, tracer, targets[i], round)
			if err != nil {
				return err
			}
			select {
			case <-time.After(p.Pause):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			for _, s := range samples {
				if round < 0 {
					continue
				}
				if err := emit(s); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// turn is that of one contender: all clients at once.
func (p Plan) turn(ctx context.Context, tracer *trace.Tracer, t target, round int) ([]Sample, error) {
	samples := make([][]Sample, p.Clients)
	busy, idle, err := processor()
	if err != nil {
		return nil, err
	}
	var all sync.WaitGroup
	for client := range samples {
		all.Go(func() {
			for range p.Each {
				if ctx.Err() != nil {
					return
				}
				s := t.connect(ctx, tracer, p.Command, p.Timeout)
				if t.Used != "" && p.Clients == 1 && s.Error == "" {
					s.Freed = t.freed(ctx, p.Timeout)
				}
				s.Round, s.Client = round, client
				samples[client] = append(samples[client], s)
			}
		})
	}
	all.Wait()
	busyNow, idleNow, err := processor()
	if err != nil {
		return nil, err
	}
	flat := slices.Concat(samples...)
	for i := range flat {
		flat[i].Busy, flat[i].Idle = (busyNow-busy)/Duration(len(flat)), (idleNow-idle)/Duration(len(flat))
	}
	return flat, context.Cause(ctx)
}

type target struct {
	Contender
	identity ssh.Signer
	hostKey  ssh.PublicKey
}

func (p Plan) targets() ([]target, error) {
	if p.Rounds < 1 || p.Clients < 1 || p.Each < 1 || len(p.Contenders) == 0 {
		return nil, errors.New("nothing to measure: rounds, clients, each and contenders are at least 1")
	}
	if p.Trace && p.Clients > 1 {
		return nil, fmt.Errorf("with %d clients nobody could tell whose programs they are: trace one", p.Clients)
	}
	var all []target
	for _, c := range p.Contenders {
		t := target{Contender: c}
		var err error
		if t.identity, err = ssh.ParsePrivateKey([]byte(c.Identity)); err != nil {
			return nil, fmt.Errorf("identity of %s: %w", c.Name, err)
		}
		if t.hostKey, _, _, _, err = ssh.ParseAuthorizedKey([]byte(c.HostKey)); err != nil {
			return nil, fmt.Errorf("host key of %s: %w", c.Name, err)
		}
		all = append(all, t)
	}
	return all, nil
}

// config is that of a client, which calls kex when the server has shown its key.
func (t target) config(kex func()) *ssh.ClientConfig {
	return &ssh.ClientConfig{
		User: t.User,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(t.identity)},
		// Else a server would show the first it has of another type.
		HostKeyAlgorithms: []string{t.hostKey.Type()},
		HostKeyCallback: func(host string, remote net.Addr, key ssh.PublicKey) error {
			kex()
			return ssh.FixedHostKey(t.hostKey)(host, remote, key)
		},
	}
}

// connect measures one connection.
func (t target) connect(ctx context.Context, tracer *trace.Tracer, command string, timeout time.Duration) Sample {
	s, client := t.open(ctx, tracer, command, timeout)
	if client != nil {
		_ = client.Close()
	}
	return s
}

// open is connect without the close: there is a client if the sample has no error.
func (t target) open(ctx context.Context, tracer *trace.Tracer, command string, timeout time.Duration) (s Sample, client *ssh.Client) {
	s = Sample{Contender: t.Name, Start: time.Now()}
	since := func() Duration { return time.Since(s.Start) }
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var raw net.Conn
	var err error
	fail := func(err error) (Sample, *ssh.Client) {
		s.Error = err.Error()
		if raw != nil {
			_ = raw.Close()
		}
		return s, nil
	}
	if tracer != nil {
		if err := tracer.Reset(); err != nil {
			return fail(err)
		}
		if s.Dialed, err = trace.Now(); err != nil {
			return fail(err)
		}
		s.Start = time.Now()
	}
	raw, err = new(net.Dialer).DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return fail(err)
	}
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	s.Connected = since()
	first := &firstByte{Conn: raw}
	conn, channels, requests, err := ssh.NewClientConn(first, t.Addr, t.config(func() { s.Kex = since() }))
	if !first.at.IsZero() {
		s.Banner = first.at.Sub(s.Start)
	}
	if err != nil {
		return fail(err)
	}
	client = ssh.NewClient(conn, channels, requests)
	s.Auth = since()
	session, err := client.NewSession()
	if err != nil {
		return fail(err)
	}
	output, err := session.Output(command)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", command, err))
	}
	s.Done = since()
	s.Output = string(output)
	if tracer != nil {
		if s.Events, err = tracer.Events(); err != nil {
			return fail(err)
		}
	}
	return s, client
}

// freed waits until nothing is left of a connection that was just closed, and returns how long
// that took, or zero if it can't be told or takes longer than timeout.
func (t target) freed(ctx context.Context, timeout time.Duration) Duration {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return 0
	}
	defer watcher.Close()
	if err := watcher.Add(t.Used); err != nil {
		return 0
	}
	for {
		left, err := os.ReadDir(t.Used)
		if err != nil {
			return 0
		}
		if len(left) == 0 {
			return time.Since(start)
		}
		select {
		case <-watcher.Events:
		case <-watcher.Errors:
			return 0
		case <-ctx.Done():
			return 0
		}
	}
}

// firstByte remembers when the server first said something.
type firstByte struct {
	net.Conn
	at time.Time
}

func (c *firstByte) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.at.IsZero() && n > 0 {
		c.at = time.Now()
	}
	return n, err
}
