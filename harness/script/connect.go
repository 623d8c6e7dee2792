package script

import (
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"time"

	cryptossh "golang.org/x/crypto/ssh"

	"ephemeral-builder/harness/sshclient"
)

func (s *script) connect(ctx context.Context, c *call) error {
	target := s.env.Builder
	var key, name string
	var auth bool
	err := c.parse(func(f *flag.FlagSet) {
		f.StringVar(&target.User, "user", target.User, "")
		f.StringVar(&key, "key", "", "")
		f.BoolVar(&auth, "auth", false, "")
	}, &name)
	switch {
	case err != nil:
		return err
	case key != "" && key != "wrong":
		return misuse("the only key to choose is wrong")
	case auth && !c.neg:
		return misuse("-auth says how connect must fail: use it with !")
	case s.conns[name] != nil:
		return misuse(fmt.Sprintf("there is a connection %s already: use close or dropped", name))
	}
	if key == "wrong" {
		if target.Identity, err = stranger(); err != nil {
			return err
		}
	}

	conn, err := sshclient.Dial(ctx, target)
	closed := errors.Is(err, sshclient.ErrRefused) || errors.Is(err, sshclient.ErrClosed)
	switch {
	case err == nil && c.neg:
		conn.Close()
	case err == nil:
		s.conns[name] = conn
	case auth && errors.Is(err, sshclient.ErrAuth), !auth && closed:
		return &failed{err}
	case auth && closed:
		return fmt.Errorf("the connection was refused, not the login: %w", err)
	}
	return err
}

// stranger is a key that nobody knows.
func stranger() (cryptossh.Signer, error) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	return cryptossh.NewSignerFromKey(private)
}

func (s *script) closeConn(_ context.Context, c *call) error {
	var name string
	if err := c.parse(nil, &name); err != nil {
		return err
	}
	conn, err := s.conn(name)
	if err != nil {
		return err
	}
	delete(s.conns, name)
	if err := conn.Close(); err != nil {
		return err
	}
	// Only now is it certain who was first: the server's end may not have been looked at before.
	if err := conn.Err(); errors.Is(err, sshclient.ErrClosed) {
		return fmt.Errorf("%s has ended already: %w: use dropped if it should have", name, err)
	}
	return nil
}

// dropped waits for an event that no repetition would see: the end of the connection.
func (s *script) dropped(ctx context.Context, c *call) error {
	limit, name := deadline, ""
	positions := []*string{&name}
	var text string
	if len(c.args) > 1 {
		positions = append(positions, &text)
	}
	if err := c.parse(nil, positions...); err != nil {
		return err
	}
	if text != "" {
		var err error
		if limit, err = duration(text); err != nil {
			return err
		}
	}
	conn, err := s.conn(name)
	if err != nil {
		return err
	}
	ctx, cancel := s.within(ctx, limit)
	defer cancel()
	select {
	case <-conn.Done():
	case <-ctx.Done():
		return fmt.Errorf("%s is still connected: %w", name, context.Cause(ctx))
	}
	delete(s.conns, name)
	if err := conn.Err(); !errors.Is(err, sshclient.ErrClosed) {
		return fmt.Errorf("the server did not end %s: %w", name, err)
	}
	return nil
}

func duration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, misuse(fmt.Sprintf("%q is not a duration, such as 5s", text))
	}
	return d, nil
}
