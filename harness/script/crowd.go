package script

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	cryptossh "golang.org/x/crypto/ssh"

	"ephemeral-builder/harness/sshclient"
)

// crowd is a number of jobs that come in a known order, each on a connection of its own.
type crowd struct {
	members []member
	done    chan struct{}
}

// member is one of them.
type member struct {
	host string // by the server's certificate; empty if none answered
	err  error  // of a job that did not end well
}

// lengths of jobs, in seconds, if all are not to have the same: some are much longer than most.
var lengths = []string{"0.1", "0.5", "0.2", "2", "1", "0.2", "4", "0.1", "8", "1"}

// crowd begins all jobs, in order: the next connection when the last one is there.
func (s *script) crowd(ctx context.Context, c *call) error {
	target := s.env.Builder
	var authority, identity, length, id, text string
	err := c.parse(func(f *flag.FlagSet) {
		f.StringVar(&authority, "authority", "", "")
		f.StringVar(&identity, "identity", "", "")
		f.StringVar(&length, "length", "", "")
	}, &id, &text)
	if err != nil {
		return err
	}
	count, err := strconv.Atoi(text)
	switch {
	case err != nil || count < 1 || count > 1000:
		return misuse(fmt.Sprintf("%q is not a count from 1 to 1000", text))
	case authority == "" || identity == "":
		return misuse("-authority and -identity are missing: by the first a job knows its host, by the other it gets in")
	case s.crowds[id] != nil:
		return misuse(fmt.Sprintf("there is a crowd %s already: use gather", id))
	}
	if target.Authority, _, _, _, err = cryptossh.ParseAuthorizedKey([]byte(c.ts.ReadFile(authority))); err != nil {
		return misuse(fmt.Sprintf("%s has no public key: %v", authority, err))
	}
	if target.Identity, err = cryptossh.ParsePrivateKey([]byte(c.ts.ReadFile(identity))); err != nil {
		return misuse(fmt.Sprintf("%s has no private key: %v", identity, err))
	}
	all := &crowd{members: make([]member, count), done: make(chan struct{})}
	var running sync.WaitGroup
	defer func() {
		go func() {
			running.Wait()
			close(all.done)
		}()
	}()
	s.crowds[id] = all
	for i := range all.members {
		raw, err := new(net.Dialer).DialContext(ctx, "tcp", target.Addr)
		if err != nil {
			return fmt.Errorf("connection %d of %d: %w", i+1, count, err)
		}
		took := length
		if took == "" {
			took = lengths[i%len(lengths)]
		}
		running.Go(func() { all.members[i].serve(s.ctx, raw, target, took) })
	}
	return nil
}

func (m *member) serve(ctx context.Context, raw net.Conn, target sshclient.Target, took string) {
	conn, err := sshclient.Handshake(ctx, raw, target)
	if err != nil {
		m.err = err
		return
	}
	defer conn.Close()
	m.host = conn.Certificate().KeyId
	if i := strings.LastIndexByte(m.host, ' '); i >= 0 { // "NAME on HOST"
		m.host = m.host[i+1:]
	}
	m.err = conn.Run(ctx, "sleep "+took, nil, nil, nil)
}

// gather waits for the last job, and prints what became of all.
func (s *script) gather(ctx context.Context, c *call) error {
	var id string
	if err := c.parse(nil, &id); err != nil {
		return err
	}
	all, ok := s.crowds[id]
	if !ok {
		return misuse(fmt.Sprintf("there is no crowd %s: use crowd", id))
	}
	select {
	case <-all.done:
		delete(s.crowds, id)
	case <-ctx.Done():
		return fmt.Errorf("%s still runs: %w", id, context.Cause(ctx))
	}
	type tally struct{ well, lost int }
	lost := 0
	hosts := map[string]*tally{}
	for _, m := range all.members {
		name := m.host
		if name == "" {
			name = "nobody"
		}
		if hosts[name] == nil {
			hosts[name] = new(tally)
		}
		if m.err == nil {
			hosts[name].well++
		} else {
			hosts[name].lost++
			lost++
			fmt.Fprintf(c.stderr, "%s: %v\n", name, m.err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		fmt.Fprintf(c.stdout, "%s: %d jobs ended well, %d did not\n", name, hosts[name].well, hosts[name].lost)
	}
	fmt.Fprintf(c.stdout, "%d jobs, of which %d did not end well\n", len(all.members), lost)
	return nil
}
