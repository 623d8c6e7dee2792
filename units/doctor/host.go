package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"ephemeral-builder/image"
	"ephemeral-builder/image/command"
	"ephemeral-builder/units"
)

func kernel(ctx context.Context, _ subject) []Finding {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return []Finding{unknown(err)}
	}
	release := unix.ByteSliceToString(name.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return []Finding{unknown(fmt.Errorf("kernel release %s: %w", release, err))}
	}
	if major < 5 || major == 5 && minor < 12 {
		return []Finding{fail("Linux "+release, "user ids of a container's own on an image that is not changed need idmapped mounts, of 5.12", "upgrade the kernel")}
	}
	host, err := units.ThisHost(ctx)
	if err != nil {
		return []Finding{unknown(err)}
	}
	if !host.Filters {
		return []Finding{warn("Linux "+release+" does not show filters of system calls", "they are made anew for each container, which takes 28 ms", "enable CONFIG_CHECKPOINT_RESTORE, if you make your own kernel")}
	}
	return []Finding{ok("Linux %s", release)}
}

func cgroups(context.Context, subject) []Finding {
	const do = "boot with systemd.unified_cgroup_hierarchy=1, and without cgroup_disable="
	text, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return []Finding{fail("there is no cgroup v2 at /sys/fs/cgroup", "containers have no limits without", do)}
	}
	var missing []string
	for _, controller := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(strings.Fields(string(text)), controller) {
			missing = append(missing, controller)
		}
	}
	if len(missing) > 0 {
		return []Finding{fail("cgroup v2 lacks the controllers "+strings.Join(missing, ", "), "one job can take what all need: these limits hold nobody", do)}
	}
	return []Finding{ok("version 2, with cpu, memory and pids")}
}

func userNamespaces(_ context.Context, s subject) []Finding {
	most, err := number("/proc/sys/user/max_user_namespaces")
	if err != nil {
		return []Finding{unknown(err)}
	}
	if most < int64(s.Concurrency) {
		return []Finding{fail(fmt.Sprintf("the kernel allows %d", most), fmt.Sprintf("each of %d containers has one", s.Concurrency), "sysctl user.max_user_namespaces=15000, and a file in /etc/sysctl.d for it")}
	}
	return []Finding{ok("%d are allowed", most)}
}

func programs(_ context.Context, s subject) (found []Finding) {
	for _, need := range units.Needs(s.Spec) {
		if _, err := exec.LookPath(need.Program); err != nil {
			found = append(found, fail(need.Program+" is not there", "the units start it", "apt-get install "+need.Package))
		}
	}
	if len(found) == 0 {
		found = append(found, ok("all that the units start are there"))
	}
	return found
}

func disk(_ context.Context, s subject) []Finding {
	var fs unix.Statfs_t
	if err := unix.Statfs(units.ContainerDir, &fs); err != nil {
		return []Finding{fail(units.ContainerDir+": "+err.Error(), "images are there", install())}
	}
	free, need := int64(fs.Bavail)*fs.Bsize>>20, int64(1024)
	if manifest, err := manifestOf(s); err == nil {
		need = manifest.Tar.Size * 11 / 10 >> 20
	}
	if free < need {
		return []Finding{warn(fmt.Sprintf("%d MiB are free in %s", free, units.ContainerDir), fmt.Sprintf("the next image needs %d MiB beside this one", need), "free some space, or move it to a larger disk")}
	}
	return []Finding{ok("%d MiB are free in %s, an upgrade needs %d", free, units.ContainerDir, need)}
}

// jobCache looks at what jobs hand on to each other.
func jobCache(_ context.Context, s subject) []Finding {
	if s.Cache == 0 {
		return []Finding{ok("none: jobs hand on nothing to each other")}
	}
	dir := filepath.Join(units.CacheDir, s.Name)
	var own, around unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &own), unix.Stat(filepath.Dir(dir), &around)); err != nil || own.Dev == around.Dev {
		return []Finding{fail("nothing is mounted in "+dir, "jobs have no cache, and say nothing of it", "look at: journalctl -u "+s.Name+"-slots; and "+install())}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return []Finding{unknown(err)}
	}
	found := []Finding{ok("%d%% of %s are used", 100-100*fs.Bfree/max(fs.Blocks, 1), s.Cache)}
	// An administrator may have added some: a container is there before a client shows its key. The
	// host's own is there also if nobody uses it.
	n, err := authorized(s.keys.AuthorizedKeys)
	if err == nil && !usedHere(s) {
		n--
	}
	if err != nil {
		found = append(found, unknown(err))
	} else if n > 1 {
		found = append(found, warn(fmt.Sprintf("%d keys in %s share it", n, s.keys.AuthorizedKeys), "jobs of one can change what those of another find", "give keys that don't trust each other a builder each, by its own name and port"))
	}
	return found
}

// authorized counts the keys in a file as sshd(8) has it under AUTHORIZED_KEYS FILE FORMAT.
func authorized(path string) (n int, err error) {
	rest, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for ; ; n++ {
		if _, _, _, rest, err = ssh.ParseAuthorizedKey(rest); err != nil {
			return n, nil // no other is there
		}
	}
}

// gitMirror looks for repositories that everybody can read.
func gitMirror(_ context.Context, s subject) []Finding {
	if s.GitMirror == "" {
		return []Finding{ok("none: jobs fetch all")}
	}
	const why = "jobs fetch all, and say nothing of it"
	var found []string
	for _, pattern := range []string{"*.git/objects", "*/*.git/objects"} {
		paths, err := filepath.Glob(filepath.Join(s.GitMirror, pattern))
		if err != nil {
			return []Finding{unknown(err)}
		}
		found = append(found, paths...)
	}
	for _, objects := range found {
		if info, err := os.Stat(objects); err != nil || info.Mode().Perm()&0o005 != 0o005 {
			return []Finding{warn(objects+" is not for everybody to read", why, "chmod -R go+rX "+s.GitMirror)}
		}
	}
	if len(found) == 0 {
		return []Finding{warn(s.GitMirror+" has no repository", why, "git clone --mirror URL "+s.GitMirror+"/GROUP/NAME.git, and git fetch there from time to time")}
	}
	return []Finding{ok("%d repositories in %s", len(found), s.GitMirror)}
}

func memory(ctx context.Context, s subject) []Finding {
	host, err := units.ThisHost(ctx)
	if err != nil {
		return []Finding{unknown(err)}
	}
	limits, err := host.Limits(s.Spec)
	if err != nil {
		return []Finding{fail(err.Error(), "the spec does not fit this host", "change the spec, and install it")}
	}
	if all := uint64(limits.MemoryMax) * uint64(s.Concurrency); all > uint64(host.Memory) {
		return []Finding{warn(fmt.Sprintf("%d containers may have %s each, of %dM", s.Concurrency, limits.MemoryMax, host.Memory>>20),
			"if all of them want it the kernel kills jobs", "lower limits.memory_max or concurrency in the spec, if your jobs are that large")}
	}
	return []Finding{ok("%d containers may have %s each, of %dM", s.Concurrency, limits.MemoryMax, host.Memory>>20)}
}

func terminals(context.Context, subject) []Finding {
	most, err := number("/proc/sys/kernel/pty/max")
	if err != nil {
		return []Finding{unknown(err)}
	}
	in, err := number("/proc/sys/kernel/pty/nr")
	if err != nil {
		return []Finding{unknown(err)}
	}
	if in > most*9/10 {
		return []Finding{warn(fmt.Sprintf("%d of %d are in use", in, most), "without one nobody can log in, on the host either", "look who has them: lsof /dev/pts/*; or raise sysctl kernel.pty.max")}
	}
	return []Finding{ok("%d of %d are in use", in, most)}
}

// inotify looks whether there is enough for all slots: see script slot.
func inotify(_ context.Context, s subject) []Finding {
	most, err := number("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		return []Finding{unknown(err)}
	}
	if most < int64(2*128*s.Concurrency) {
		return []Finding{warn(fmt.Sprintf("%d instances for the host and %d slots", most, s.Concurrency), "systemd itself needs them to run, and jobs their share",
			"systemctl restart "+s.Name+"-slots.service, which raises it, and look for what lowers it, in /etc/sysctl.d")}
	}
	return []Finding{ok("%d instances for the host and %d slots", most, s.Concurrency)}
}

func clock(ctx context.Context, _ subject) []Finding {
	out, err := command.Output(ctx, command.Cmd{Args: []string{"timedatectl", "show", "--property=NTPSynchronized", "--value"}})
	if err != nil {
		return []Finding{unknown(err)}
	}
	if strings.TrimSpace(string(out)) != "yes" {
		return []Finding{warn("nobody keeps it right", "with a wrong one certificates and tokens are refused, and caches are taken for old", "apt-get install systemd-timesyncd")}
	}
	return []Finding{ok("it is kept right")}
}

// number reads a file with one.
func number(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

func manifestOf(s subject) (image.Manifest, error) {
	_, current, err := units.Versions(s.Name)
	if err != nil {
		return image.Manifest{}, err
	}
	return image.ReadManifest(filepath.Join(units.ContainerDir, s.Name+"_"+current+".manifest.json"))
}
