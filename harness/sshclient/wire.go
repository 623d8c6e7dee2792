package sshclient

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
)

// wire is a network connection that remembers who ended it, and why. The errors that
// x/crypto passes on don't tell: after a failed write it closes the connection by
// itself, and its reader then reports "use of closed network connection".
type wire struct {
	net.Conn

	mu     sync.Mutex
	reason error // why the connection ended, the first reason noted
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.noteEnd(err)
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.noteEnd(err)
	return n, err
}

// shut ends the connection from this side. It never waits for the server.
func (w *wire) shut(reason error) {
	w.note(reason)
	w.Conn.Close()
}

func (w *wire) noteEnd(err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		w.note(fmt.Errorf("%w: %w", ErrClosed, err))
	}
}

func (w *wire) note(reason error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reason == nil {
		w.reason = reason
	}
}

// explain returns the reason for err, an error of the SSH layer. Only an error that
// comes from the end of the connection is replaced by that end's reason: the server may
// have closed it a moment after the message that err is about.
func (w *wire) explain(err error) error {
	if disconnected(err) {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed} {
		if errors.Is(err, end) && w.reason != nil {
			return w.reason
		}
	}
	return err
}
