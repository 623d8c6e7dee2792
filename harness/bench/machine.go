package bench

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ephemeral-builder/image"
	"ephemeral-builder/image/command"
)

// Machine is what the numbers depend on.
type Machine struct {
	Cores  int    `json:"cores"`
	Memory int64  `json:"memory"` // bytes
	Kernel string `json:"kernel"` // release, as of uname -r
}

// ThisMachine measures the machine it runs on.
func ThisMachine() (Machine, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return Machine{}, err
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Machine{}, err
	}
	return Machine{runtime.NumCPU(), int64(info.Totalram) * int64(info.Unit), unix.ByteSliceToString(name.Release[:])}, nil
}

// load is the average number of processes of the last minute that run or wait to
// (proc_loadavg(5)).
func load() (float64, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	var one float64
	_, err = fmt.Sscan(string(text), &one)
	return one, err
}

// cpuTime is what this process and all that it has waited for have computed.
func cpuTime() time.Duration {
	var sum time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var usage unix.Rusage
		if unix.Getrusage(who, &usage) == nil { // fails for no other who
			sum += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
		}
	}
	return sum
}

// versions are those of the programs that take part.
func versions(ctx context.Context) (map[string]string, error) {
	all := map[string]string{"go": strings.TrimPrefix(runtime.Version(), "go")}
	for _, name := range []string{"apt-get", "debootstrap", "mmdebstrap", "tar", "zstd"} {
		out, err := command.Output(ctx, command.Cmd{Args: []string{name, "--version"}, Env: []string{"LC_ALL=C"}})
		if err != nil {
			return nil, err
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		all[name] = first
	}
	if commit, _, err := image.Commit(ctx, "."); err == nil {
		all["ephemeral-builder"] = commit
	}
	return all, nil
}
