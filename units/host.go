package units

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/scripts"
)

// Host is what the machine has to share out among containers.
type Host struct {
	Memory spec.Size // physical memory
	CPUs   int
	Disk   spec.Size // of the file system with ContainerDir, all of it

	Filters bool // its kernel shows the filters of system calls: PTRACE_SECCOMP_GET_FILTER in ptrace(2)
}

// ThisHost measures the machine it runs on.
func ThisHost(ctx context.Context) (Host, error) {
	// Its parent is there, too, where nothing was installed yet.
	dir := ContainerDir
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		dir = filepath.Dir(dir)
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		return Host{}, fmt.Errorf("asking for the size of %s: %w", dir, err)
	}
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return Host{}, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var kib uint64
		if rest, ok := strings.CutPrefix(lines.Text(), "MemTotal:"); ok {
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				return Host{}, fmt.Errorf("reading MemTotal of /proc/meminfo: %w", err)
			}
			return Host{Memory: spec.Size(kib << 10), CPUs: runtime.NumCPU(), Disk: spec.Size(disk.Blocks * uint64(disk.Bsize)), Filters: showsFilters(ctx)}, nil
		}
	}
	return Host{}, fmt.Errorf("no MemTotal in /proc/meminfo: %w", lines.Err())
}

// showsFilters is false for a host of whatever kind where that can't be said.
func showsFilters(ctx context.Context) bool {
	script, err := scripts.FS.ReadFile("filters")
	return err == nil && command.Run(ctx, command.Cmd{Args: []string{"perl", "-e", string(script), "check"}}) == nil
}

const (
	mib = 1 << 20
	// minMemory is what sshd and a shell need beside the home.
	minMemory = 32 * mib
	// minDisk is what ext4 needs for itself and a little more.
	minDisk = 16 * mib
	// maxTasks bounds the share of a large host, as a fork bomb costs the kernel too.
	maxTasks = 4096
	minTasks = 64
)

// Limits fills what the spec leaves open with this host's fair shares: of the cores, one
// part for each of the spec's concurrent containers; of four fifths of the memory,
// likewise, half of it for the home, and a fourth for /tmp and for /dev/shm; of half of the
// disk, likewise, for a home that is there; one task for each MiB, between 64 and 4096.
func (h Host) Limits(s spec.Spec) (spec.Limits, error) {
	l := s.Limits
	if l.CPUQuota == 0 {
		l.CPUQuota = spec.Percent(max(1, 100*h.CPUs/s.Concurrency))
	}
	if l.MemoryMax == 0 {
		share := uint64(h.Memory) / 5 * 4 / uint64(s.Concurrency)
		l.MemoryMax = max(spec.Size(share/mib*mib), l.MemoryHigh)
	}
	if l.MemoryMax < minMemory {
		return l, fmt.Errorf("%s of memory shared by %d containers is %s for each, too little for sshd: lower concurrency in the spec", h.Memory, s.Concurrency, l.MemoryMax)
	}
	switch {
	case l.HomeSize != 0:
	case s.Home == spec.HomeDisk:
		l.HomeSize = h.Disk / 2 / spec.Size(s.Concurrency) / mib * mib
	default:
		l.HomeSize = l.MemoryMax / 2 / mib * mib
	}
	if s.Home == spec.HomeDisk && l.HomeSize < minDisk {
		return l, fmt.Errorf("half of a disk of %s shared by %d containers is %s for each, too little for a file system: lower concurrency in the spec, or set limits.home_size", h.Disk, s.Concurrency, l.HomeSize)
	}
	if s.Home == spec.HomeDisk && l.HomeSize > h.Disk/spec.Size(s.Concurrency) {
		return l, fmt.Errorf("limits.home_size is %s for each of %d containers, more than the %s of the disk with %s: lower one of the two", l.HomeSize, s.Concurrency, h.Disk, ContainerDir)
	}
	if s.Home != spec.HomeDisk && l.HomeSize >= l.MemoryMax {
		return l, fmt.Errorf("limits.home_size is %s, but this host's share of memory is %s for each container: lower home_size or set limits.memory_max", l.HomeSize, l.MemoryMax)
	}
	if l.TmpSize == 0 {
		l.TmpSize = l.MemoryMax / 4 / mib * mib
	}
	if l.TmpSize >= l.MemoryMax {
		return l, fmt.Errorf("limits.tmp_size is %s, but this host's share of memory is %s for each container: lower tmp_size or set limits.memory_max", l.TmpSize, l.MemoryMax)
	}
	if l.TasksMax == 0 {
		l.TasksMax = int(min(max(uint64(l.MemoryMax)/mib, minTasks), maxTasks))
	}
	return l, nil
}
