package sshclient_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"ephemeral-builder/harness/sshclient"
	"ephemeral-builder/harness/sshclient/sshtest"
	"ephemeral-builder/image/command"
)

// sshd serves a free port of the loopback interface as a builder does: one `sshd -i`
// for each connection. The function that it returns ends them all.
func sshd(t *testing.T) (sshclient.Target, func()) {
	t.Helper()
	program, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		t.Skip("needs OpenSSH's server: install openssh-server")
	}
	if _, err := os.Stat("/run/sshd"); err != nil && os.Getuid() == 0 {
		t.Skip("needs OpenSSH's privilege separation directory: mkdir /run/sshd")
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	hostKey, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	identity := sshtest.Key(t)
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"host_key":   pem.EncodeToMemory(block),
		"authorized": ssh.MarshalAuthorizedKey(identity.PublicKey()),
		"config": []byte("HostKey " + dir + "/host_key\nAuthorizedKeysFile " + dir + "/authorized\n" +
			"StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n" +
			"PermitRootLogin prohibit-password\nMaxAuthTries 1\nMaxSessions 2\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, drop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				socket, err := conn.(*net.TCPConn).File()
				if err != nil {
					return
				}
				defer socket.Close()
				command.Run(ctx, command.Cmd{
					Args:  []string{program, "-i", "-e", "-f", filepath.Join(dir, "config")},
					Stdin: socket, Stdout: socket,
				})
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		drop()
		running.Wait()
	})
	return sshclient.Target{
		Addr: listener.Addr().String(), User: me.Username, Identity: identity, HostKey: hostKey.PublicKey(),
	}, drop
}

// What the other tests take for granted of servers holds for OpenSSH's.
func TestOpenSSH(t *testing.T) {
	target, drop := sshd(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := sshclient.Dial(ctx, target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	var stdout bytes.Buffer
	if err := conn.Run(ctx, "cat", strings.NewReader("\x00\xff"), &stdout, nil); err != nil || stdout.String() != "\x00\xff" {
		t.Errorf("got %q and %v", &stdout, err)
	}
	var exit *sshclient.ExitError
	if err := conn.Run(ctx, "exit 42", nil, nil, nil); !errors.As(err, &exit) || exit.Status != 42 {
		t.Errorf("got %v, want exit status 42", err)
	}
	if err := conn.Run(ctx, "true", strings.NewReader(strings.Repeat("unread", 1<<20)), nil, nil); err != nil {
		t.Error(err)
	}

	// Commands that end with their input, so that they don't outlive a killed sshd.
	stdin, pipe := io.Pipe()
	defer pipe.Close()
	one, err := conn.Start(ctx, "exec cat", stdin, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	two, err := conn.Start(ctx, "exec cat", stdin, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, conn.Run(ctx, "true", nil, nil, nil), nil) // MaxSessions
	if os.Getuid() != 0 {                                  // sshd doesn't signal root's commands
		if err := one.Signal(ssh.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := one.Wait(); !errors.As(err, &exit) || exit.Signal != "TERM" {
			t.Errorf("got %v, want the end by signal TERM", err)
		}
	}

	wrong := target
	wrong.Identity = sshtest.Key(t)
	_, err = sshclient.Dial(ctx, wrong)
	wantKind(t, err, sshclient.ErrAuth)
	wrong = target
	wrong.HostKey = sshtest.Key(t).PublicKey()
	_, err = sshclient.Dial(ctx, wrong)
	wantKind(t, err, sshclient.ErrHostKey)

	drop()
	wantKind(t, two.Wait(), sshclient.ErrClosed)
	<-conn.Done()
	wantKind(t, conn.Err(), sshclient.ErrClosed)
}
