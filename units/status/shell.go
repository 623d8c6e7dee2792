package status

import (
	"errors"
	"fmt"
	"os"

	"ephemeral-builder/image/command"
)

// Shell opens a shell in a running container, in place of this process: as the builder with its
// user and group id, or as the container's root. With a command that is what runs.
//
// The shell has a terminal of the container's, which has a name there, and that is behind one of its
// own on the host, both by script(1): what runs in the container can reach what a shell there has,
// and by ioctl_tty(2) it could type into yours.
func Shell(c Container, root bool, uid, gid int, run string) error {
	if os.Geteuid() != 0 {
		return errors.New("entering a container needs root: run it with sudo")
	}
	if c.PID == 0 {
		return fmt.Errorf("%s has no process any more", c.Machine)
	}
	home, user := "/home/builder", "builder"
	if root {
		home, user, uid, gid = "/root", "root", 0, 0
	}
	enter := []string{
		"nsenter", fmt.Sprintf("--target=%d", c.PID), "--user", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
		fmt.Sprintf("--setuid=%d", uid), fmt.Sprintf("--setgid=%d", gid), "--wdns=" + home,
		"env", "-i", "HOME=" + home, "USER=" + user, "LOGNAME=" + user, "TERM=" + os.Getenv("TERM"), "LANG=C.UTF-8",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	if run != "" {
		return command.Replace(append(enter, "bash", "-l", "-c", run))
	}
	if !isTerminal(os.Stdin) {
		return errors.New("a shell needs a terminal: use one, or -command")
	}
	terminal := []string{"script", "--quiet", "--return", "--command"}
	inside := append(enter, append(terminal, "bash -l", "/dev/null")...)
	return command.Replace(append(terminal, command.Quote(inside), "/dev/null"))
}
