package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ephemeral-builder/image/command"
)

const (
	containerScript = "lab-container"
	cgroupScript    = "lab-cgroup"
)

// containerFiles are those that end with the container.
var containerFiles = []string{"upper", "work", "root", "container"}

// startContainer boots the container. Its first process is that of its PID, mount and
// network namespaces: when it is killed the kernel ends all of them.
func (l *Lab) startContainer(ctx context.Context, cfg Config, base *os.File) error {
	for _, name := range containerFiles {
		if err := os.MkdirAll(l.path(name), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{containerScript, cgroupScript} {
		if err := writeScript(name, l.desc.Dir); err != nil {
			return err
		}
	}
	// The ports are ours from here on: there is no moment at which another could take one.
	sshd, sshdEnd, err := listen()
	if err != nil {
		return err
	}
	defer sshd.Close()
	builder, builderEnd, err := listen()
	if err != nil {
		return err
	}
	defer builder.Close()
	log, err := os.OpenFile(l.path(ConsoleLog), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer log.Close()
	cgroups, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer tell.Close()

	tree, err := filepath.Abs(filepath.Join(base.Name(), "tree"))
	if err != nil {
		cgroups.Close()
		return err
	}
	cmd := exec.Command("sh", l.path(containerScript), tree, l.desc.Dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = cgroups, log, log
	cmd.ExtraFiles = []*os.File{sshd, builder, base}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		Unshareflags: syscall.CLONE_NEWNS,
	}
	l.console = console{file: l.path(ConsoleLog)}
	l.desc.Sshd, l.desc.Builder = sshdEnd, builderEnd
	err = l.launch(cmd, cfg.Detach)
	cgroups.Close()
	if err != nil {
		return err
	}
	if err := l.makeCgroups(ctx); err != nil {
		return err
	}
	_, err = io.WriteString(tell, strings.Join(l.desc.Cgroups, "\n")+"\n")
	return err
}

// listen returns a listening socket on a free port, as a file to give away.
func listen() (*os.File, Endpoint, error) {
	listener, err := net.Listen("tcp4", loopback+":0")
	if err != nil {
		return nil, Endpoint{}, err
	}
	defer listener.Close()
	f, err := listener.(*net.TCPListener).File()
	return f, Endpoint{loopback, listener.Addr().(*net.TCPAddr).Port}, err
}

// makeCgroups gives the lab its cgroups. Their name is the process, so that others can
// tell those whose lab was killed.
func (l *Lab) makeCgroups(ctx context.Context) error {
	p := l.desc.Process
	name := fmt.Sprintf("lab-%d-%d", p.PID, p.Start)
	args := []string{"sh", l.path(cgroupScript), strconv.Itoa(p.PID), name}
	if _, err := os.Stat("/run/systemd/system"); err == nil { // sd_booted(3)
		// Where systemd rules, a cgroup is asked of it, and has all controllers then.
		args = append([]string{"systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes",
			"--unit=" + name}, args[:3]...)
	}
	out, err := command.Output(ctx, command.Cmd{Args: args})
	l.desc.Cgroups = strings.Fields(string(out))
	if err != nil {
		return err
	}
	for _, dir := range l.desc.Cgroups {
		removeStaleCgroups(ctx, filepath.Dir(dir), p.Boot)
	}
	return l.save()
}

var cgroupName = regexp.MustCompile(`^lab-(\d+)-(\d+)$`)

// removeStaleCgroups removes, in one cgroup, those of labs that were killed together with
// the process that started them: nobody else does.
func removeStaleCgroups(ctx context.Context, parent, boot string) {
	entries, _ := os.ReadDir(parent)
	for _, e := range entries {
		match := cgroupName.FindStringSubmatch(e.Name())
		if match == nil {
			continue
		}
		pid, _ := strconv.Atoi(match[1])
		start, _ := strconv.ParseUint(match[2], 10, 64)
		if !(process{PID: pid, Start: start, Boot: boot}).alive() {
			_ = removeCgroups(ctx, []string{filepath.Join(parent, e.Name())})
		}
	}
}

// removeCgroups removes cgroups with all below them. It can't hit one that is in use: the
// kernel removes empty ones only.
func removeCgroups(ctx context.Context, dirs []string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Second, errors.New("still in use"))
	defer cancel()
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, removeCgroup(ctx, dir))
	}
	return errors.Join(errs...)
}

func removeCgroup(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(ctx, filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	// Some kernels let go of a cgroup only a moment after its last process has gone, and
	// version 1 has no event for it.
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for {
		switch err := syscall.Rmdir(dir); err {
		case nil, syscall.ENOENT:
			return nil
		case syscall.EBUSY:
		default:
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return &fs.PathError{Op: "rmdir", Path: dir, Err: context.Cause(ctx)}
		}
	}
}
