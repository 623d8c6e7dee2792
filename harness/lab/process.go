package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// process names one process of this machine for good: process numbers are used again, but
// not within one clock tick of one boot.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot: field 22 of /proc/PID/stat, proc(5)
	Boot  string `json:"boot"`  // /proc/sys/kernel/random/boot_id
}

// identify returns the process that has the number pid now.
func identify(pid int) (process, error) {
	boot, err := bootID()
	if err != nil {
		return process{}, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	start, err := startTime(stat)
	if err != nil {
		return process{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return process{PID: pid, Start: start, Boot: boot}, nil
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// startTime reads field 22. Field 2, the name in parentheses, may contain anything.
func startTime(stat []byte) (uint64, error) {
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return 0, errors.New("too few fields")
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// open returns a file descriptor that stands for p, or [os.ErrProcessDone].
func (p process) open() (int, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || p.PID == 0 {
		return -1, os.ErrProcessDone
	} else if err != nil {
		return -1, fmt.Errorf("opening process %d: %w", p.PID, err)
	}
	// The number can't be given to another process between these two, as fd holds it.
	if now, err := identify(p.PID); err != nil || now != p {
		unix.Close(fd)
		return -1, os.ErrProcessDone
	}
	return fd, nil
}

// alive tells whether p runs; a zombie does not.
func (p process) alive() bool {
	fd, err := p.open()
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return n == 0 && err == nil
}

// kill ends p by SIGKILL and waits for its end. A process that has its number by now is
// left alone.
func (p process) kill(ctx context.Context) error {
	fd, err := p.open()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	} else if err != nil {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		unix.Close(fd)
		return fmt.Errorf("killing process %d: %w", p.PID, err)
	}
	select {
	case <-ended(fd):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d does not end: %w", p.PID, context.Cause(ctx))
	}
}

// watch returns a channel that is closed when p ends.
func (p process) watch() <-chan struct{} {
	fd, err := p.open()
	if err != nil {
		gone := make(chan struct{})
		close(gone)
		return gone
	}
	return ended(fd)
}

// ended closes the channel, and fd, when the process that fd stands for has ended.
func ended(fd int) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer unix.Close(fd)
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if n > 0 || err != nil && err != unix.EINTR {
				return
			}
		}
	}()
	return done
}

// launch starts the lab's process. Package command is for programs that end within a call;
// this one has to live as long as the lab, and with Detach longer than we do.
func (l *Lab) launch(cmd *exec.Cmd, detach bool) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	// A session of its own: Ctrl-C is for us, and we end the lab in good order.
	cmd.SysProcAttr.Setsid = true
	if !detach {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	var p process
	started, exited := make(chan error, 1), make(chan struct{})
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends, so it has to stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p, err = identify(cmd.Process.Pid) // before Wait: until then it is a zombie at least
			if err != nil {
				_ = cmd.Process.Kill()
			}
			started <- err
			_ = cmd.Wait()
		} else {
			started <- err
		}
		close(exited)
	}()
	if err := <-started; err != nil {
		return err
	}
	l.exited, l.desc.Process = exited, p
	return l.save()
}
