package sshclient

import (
	"errors"
	"fmt"
	"strings"
)

// The ways a server can say no, for [errors.Is]. They exclude each other.
var (
	// ErrRefused: nothing listens at the address, or a firewall says so.
	ErrRefused = errors.New("connection refused")
	// ErrClosed: the server accepted the connection, and ended it later.
	ErrClosed = errors.New("connection closed by the server")
	// ErrAuth: the server was offered the key and did not take it.
	ErrAuth = errors.New("authentication refused by the server")
	// ErrHostKey: the server has another host key than the expected one.
	ErrHostKey = errors.New("wrong host key")
)

// errLocal is why a connection ended that [Conn.Close] ended.
var errLocal = errors.New("closed by this side")

// ExitError is a remote command that ran, and ended with something else than status 0.
type ExitError struct {
	Status int    // exit status, -1 if a signal ended the command
	Signal string // the signal's name without SIG (RFC 4254, 6.10), or empty
}

func (e *ExitError) Error() string {
	if e.Signal != "" {
		return "ended by signal " + e.Signal
	}
	return fmt.Sprintf("exit status %d", e.Status)
}

// TransportError is any failure that says nothing about the remote command's result.
type TransportError struct {
	Op  string // what was being done
	Err error  // why it could not be done
}

func (e *TransportError) Error() string { return e.Op + ": " + e.Err.Error() }

func (e *TransportError) Unwrap() error { return e.Err }

// authRefused recognises the refusal of an offered key. x/crypto has no types for it;
// the tests pin its words, and those of OpenSSH.
func authRefused(err error) bool {
	text := strings.ToLower(err.Error())
	return strings.Contains(text, "ssh: unable to authenticate") ||
		disconnected(err) && strings.Contains(text, "too many authentication failures")
}

// disconnected reports whether err is a message of the server that it ends the
// connection (RFC 4253, 11.1).
func disconnected(err error) bool {
	return strings.Contains(err.Error(), "ssh: disconnect, reason ")
}
