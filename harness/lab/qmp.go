package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// socketPair returns two ends of a stream, of which theirs can be given to a program. The
// path of a named socket may have 108 bytes only.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fds[0]), "qmp")
	defer f.Close()
	theirs = os.NewFile(uintptr(fds[1]), "qmp")
	if ours, err = net.FileConn(f); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// forwardedPorts asks QEMU over QMP which ports of this machine it chose, by the guest's
// ports. QMP: https://qemu.readthedocs.io/en/latest/interop/qmp-spec.html
func forwardedPorts(ctx context.Context, conn net.Conn) (map[int]int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("no answer"))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	answers := json.NewDecoder(bufio.NewReader(conn))
	execute := func(request string) (string, error) {
		if _, err := fmt.Fprintln(conn, request); err != nil {
			return "", err
		}
		for {
			var answer struct {
				Return json.RawMessage
				Error  *struct{ Desc string }
			}
			if err := answers.Decode(&answer); err != nil {
				if ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				return "", err
			}
			if answer.Error != nil {
				return "", errors.New(answer.Error.Desc)
			}
			if answer.Return != nil { // else the greeting, or an event
				return string(answer.Return), nil
			}
		}
	}
	if _, err := execute(`{"execute": "qmp_capabilities"}`); err != nil {
		return nil, err
	}
	answer, err := execute(`{"execute": "human-monitor-command", "arguments": {"command-line": "info usernet"}}`)
	if err != nil {
		return nil, err
	}
	var usernet string
	if err := json.Unmarshal([]byte(answer), &usernet); err != nil {
		return nil, err
	}
	ports := parseUsernet(usernet)
	for _, port := range []int{22, relayPort} {
		if ports[port] == 0 {
			return nil, fmt.Errorf("port %d is not forwarded: %s", port, usernet)
		}
	}
	return ports, nil
}

// parseUsernet reads lines such as
//
//	TCP[HOST_FORWARD]  13       127.0.0.1 40363       10.0.2.15    22     0     0
func parseUsernet(text string) map[int]int {
	ports := map[int]int{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 6 || f[0] != "TCP[HOST_FORWARD]" {
			continue
		}
		here, err := strconv.Atoi(f[3])
		there, err2 := strconv.Atoi(f[5])
		if err == nil && err2 == nil {
			ports[there] = here
		}
	}
	return ports
}
