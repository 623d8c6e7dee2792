// Package sshclient speaks SSH for the test harness: one connection, many sessions
// on it, and errors that cannot be mistaken for each other.
//
// A command that ran and ended is nil or an [*ExitError]. Everything else (no
// connection, a refused session, a connection lost in mid-command) is a
// [*TransportError], so that a test that expects a command to fail cannot be
// satisfied by a builder that went away.
//
// Nothing here waits for ever: when the context of a call ends, the connection is
// closed, which ends every wait on it.
package sshclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// Target says where to connect, as whom, and which server must answer there.
type Target struct {
	Addr     string        // host:port
	User     string        // login name
	Identity ssh.Signer    // the only key that is offered
	HostKey  ssh.PublicKey // the only key that the server may have

	// Authority, if it is set, takes the place of HostKey: the server must have a certificate of it,
	// for the host in Addr. See [Conn.Certificate].
	Authority ssh.PublicKey
}

// Conn is one authenticated SSH connection. Its methods may be called from several
// goroutines at once.
type Conn struct {
	client *ssh.Client
	shown  *ssh.Certificate
	wire   *wire
	done   chan struct{}
	err    error // set before done is closed
}

// Dial connects to t. The context covers TCP, key exchange and authentication, and
// should have a deadline; a server that accepts and then says nothing is waited for
// as long as ctx lasts. Once Dial has returned, ctx has no influence any more.
//
// The error is a [*TransportError] that wraps one of [ErrRefused], [ErrClosed],
// [ErrAuth] and [ErrHostKey], the cause of ctx's end, or something else that none of
// these describes.
func Dial(ctx context.Context, t Target) (*Conn, error) {
	if t.Identity == nil || t.HostKey == nil && t.Authority == nil {
		return nil, &TransportError{"connect", errors.New("the target needs an identity and a host key")}
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", t.Addr)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, &TransportError{"connect", fmt.Errorf("%w: %w", context.Cause(ctx), err)}
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, &TransportError{"connect", fmt.Errorf("%w: %w", ErrRefused, err)}
	default:
		return nil, &TransportError{"connect", err}
	}
	return Handshake(ctx, raw, t)
}

// Handshake is the rest of [Dial], on a TCP connection to t that is there already. It is closed if
// there is an error.
func Handshake(ctx context.Context, raw net.Conn, t Target) (*Conn, error) {
	// ssh.ClientConfig.Timeout bounds the TCP connect only (golang/go#51926): a
	// forwarded port accepts at once and then nobody speaks.
	w := &wire{Conn: raw}
	stop := context.AfterFunc(ctx, func() { w.shut(context.Cause(ctx)) })
	offered := false
	var shown *ssh.Certificate
	conn, channels, requests, err := ssh.NewClientConn(w, t.Addr, &ssh.ClientConfig{
		User: t.User,
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			offered = true
			return []ssh.Signer{t.Identity}, nil
		})},
		HostKeyAlgorithms: t.hostKeyAlgorithms(),
		HostKeyCallback: func(address string, remote net.Addr, key ssh.PublicKey) error {
			if t.Authority != nil {
				shown, _ = key.(*ssh.Certificate)
				return t.checkCertificate(address, remote, key)
			}
			if bytes.Equal(key.Marshal(), t.HostKey.Marshal()) {
				return nil
			}
			return fmt.Errorf("%w: it is %s, want %s", ErrHostKey,
				ssh.FingerprintSHA256(key), ssh.FingerprintSHA256(t.HostKey))
		},
	})
	if err != nil {
		stop()
		if offered && authRefused(err) {
			err = fmt.Errorf("%w: %w", ErrAuth, err)
		} else {
			err = w.explain(err)
		}
		return nil, &TransportError{"handshake with " + t.Addr, err}
	}

	c := &Conn{client: ssh.NewClient(conn, channels, requests), shown: shown, wire: w, done: make(chan struct{})}
	go func() {
		c.err = &TransportError{"connection", w.explain(c.client.Wait())}
		close(c.done)
	}()
	if !stop() {
		c.Close()
		return nil, &TransportError{"handshake with " + t.Addr, context.Cause(ctx)}
	}
	return c, nil
}

// hostKeyAlgorithms are the signature algorithms of key. Without the restriction a
// server with several keys shows its ECDSA key first, whichever one is expected.
func (t Target) hostKeyAlgorithms() []string {
	key := t.HostKey
	if t.Authority != nil {
		return []string{ssh.CertAlgoED25519v01}
	}
	if key.Type() == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256} // RFC 8332
	}
	return []string{key.Type()}
}

// checkCertificate is what a client does for a line of known_hosts with @cert-authority.
func (t Target) checkCertificate(address string, remote net.Addr, key ssh.PublicKey) error {
	checker := ssh.CertChecker{IsHostAuthority: func(authority ssh.PublicKey, _ string) bool {
		return bytes.Equal(authority.Marshal(), t.Authority.Marshal())
	}}
	if err := checker.CheckHostKey(address, remote, key); err != nil {
		return fmt.Errorf("%w: %w", ErrHostKey, err)
	}
	return nil
}

// Certificate is that of the server, if the target has an Authority.
func (c *Conn) Certificate() *ssh.Certificate { return c.shown }

// Close ends the connection and every session on it. It always returns nil.
func (c *Conn) Close() error {
	c.wire.shut(errLocal)
	<-c.done
	return nil
}

// Done is closed when the connection has ended, whoever ended it.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is nil while the connection lasts, then a [*TransportError] that says why it
// ended. It wraps [ErrClosed] if, and only if, the server ended it.
func (c *Conn) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// lost asks the server for a sign of life, and returns why there is none. It blocks
// until the server answers or the connection ends.
func (c *Conn) lost() error {
	// Servers that don't know the request say so, which is as good an answer (RFC 4254, 4).
	_, _, err := c.client.SendRequest("keepalive@openssh.com", true, nil)
	if err == nil {
		return nil
	}
	c.wire.shut(err)
	<-c.done
	return c.err
}
