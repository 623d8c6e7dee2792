package status

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/spec"
)

// payloadCapabilities are what a container's own processes have at most: see CapabilityBoundingSet=
// in files/service, and the capabilities that files/confinement leaves.
const payloadCapabilities = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+sys_chroot,+sys_ptrace"

// Shell opens a shell in a running container, in place of this process: as the builder, or as the
// container's root. With a command that is what runs.
//
// What runs in the container is hostile to it. So it enters the namespaces of the container's first
// process, which no job chooses, counts as the container's, and gets no new privileges. And it
// never has your terminal: into that a job could type, ioctl_tty(2), TIOCSTI. It is behind one of
// its own on the host, with a second one in the container that has a name there, both by
// script(1); or, with a command, behind none. What it does not have are the filters of system calls: a job
// that takes it over, as it can with what its own user runs, is without them.
func Shell(c Container, s spec.Spec, root bool, run string) error {
	if os.Geteuid() != 0 {
		return errors.New("entering a container needs root: run it with sudo")
	}
	if root && s.Root == spec.RootSudo {
		return errors.New("with root = \"sudo\" its programs may be the job's own: leave -root out, and use sudo inside")
	}
	first := c.first()
	if first == 0 {
		return fmt.Errorf("%s has ended", c.Machine)
	}
	if run == "" && !isTerminal(os.Stdin) {
		return errors.New("a shell needs a terminal: use one, or -command")
	}
	if err := os.WriteFile(filepath.Join(c.payload, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("entering the container's cgroup: %w", err)
	}
	home, user, uid, gid := "/home/builder", "builder", s.User.UID, s.User.GID
	if root {
		home, user, uid, gid = "/root", "root", 0, 0
	}
	inside := []string{
		"setpriv", "--no-new-privs", "nsenter", fmt.Sprintf("--target=%d", first), "--user", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
		fmt.Sprintf("--setuid=%d", uid), fmt.Sprintf("--setgid=%d", gid), "--wdns=" + home,
	}
	if root {
		inside = append(inside, "setpriv", "--bounding-set="+payloadCapabilities, "--inh-caps=-all")
	}
	inside = append(inside,
		"env", "-i", "HOME="+home, "USER="+user, "LOGNAME="+user, "TERM="+os.Getenv("TERM"), "LANG=C.UTF-8",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	if run != "" {
		return command.Replace(append([]string{"setsid", "--wait"}, append(inside, "bash", "-l", "-c", run)...))
	}
	terminal := []string{"script", "--quiet", "--return", "--command"}
	inside = append(inside, append(terminal, "bash -l", "/dev/null")...)
	return command.Replace(append(terminal, command.Quote(inside), "/dev/null"))
}

// first is the process id of the container's first process, and of none that a job has made within;
// zero if there is none any more.
func (c Container) first() int {
	level := len(pids("self")) + 1
	text, _ := os.ReadFile(filepath.Join(c.payload, "cgroup.procs"))
	for _, pid := range strings.Fields(string(text)) {
		if ids := pids(pid); len(ids) == level && ids[level-1] == "1" {
			n, _ := strconv.Atoi(pid)
			return n
		}
	}
	return 0
}

// pids are a process's ids in our PID namespace and those below it.
func pids(pid string) []string {
	text, _ := os.ReadFile("/proc/" + pid + "/status")
	for line := range strings.Lines(string(text)) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return strings.Fields(ids)
		}
	}
	return nil
}
