// Package units turns a spec into systemd units, and installs an image and its units on
// the host it runs on. The units are the files in the folder files/, with the spec's
// values filled in.
package units

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"ephemeral-builder/image"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/scripts"
)

//go:embed files
var files embed.FS

// Where everything is on a host.
const (
	ContainerDir = "/var/lib/container"               // image trees, and the symlink of the one in use
	UnitDir      = "/etc/systemd/system"              // systemd.unit(5): the administrator's units
	NetworkDir   = "/etc/systemd/network"             // systemd.network(5): the administrator's
	ConfigDir    = "/etc/ephemeral-builder"           // keys, in a folder for each NAME
	LibDir       = "/usr/local/lib/ephemeral-builder" // what units start, likewise
	RunDir       = "/run/ephemeral-builder"           // slots, likewise

	MetricsDir = "/var/lib/prometheus/node-exporter" // of Debian's prometheus-node-exporter, which reads what is there

	CacheDir    = "/var/cache/ephemeral-builder/jobs"      // what jobs hand on to each other, in a folder for each NAME
	DownloadDir = "/var/cache/ephemeral-builder/downloads" // what an unfinished install has downloaded, likewise
)

// writtenByUs is in every file that is not a script.
const writtenByUs = "Written by ephemeral-builder from its spec"

// connectionMark is SO_MARK of all builders' connections, with the port that they came to.
const connectionMark = 0x65620000

// unmanagedFile is what keeps systemd-networkd away from the slots. The first file that
// matches an interface is the one that counts, systemd.network(5).
func unmanagedFile(name string) string {
	return filepath.Join(NetworkDir, "00-"+name+"-slots.network")
}

// cacheFile has what jobs of a builder hand on to each other.
func cacheFile(name string) string { return filepath.Join(ContainerDir, "."+name+"_cache") }

// File is one unit file, or another file that they need.
type File struct {
	Name string // NAME.socket, or an absolute path
	Text []byte
}

// isUnit tells a unit file from another.
func (f File) isUnit() bool { return !filepath.IsAbs(f.Name) }

// unitNames are the names of all units that a builder can have, by their templates in files/.
func unitNames(name string) map[string]string {
	return map[string]string{
		"slice":            sliceUnit(name),
		"slots":            slotsUnit(name),
		"filters":          filtersUnit(name),
		"upkeep.service":   name + "-upkeep.service",
		"upkeep.timer":     name + "-upkeep.timer",
		"service":          name + "@.service",
		"socket":           name + ".socket",
		"warm":             warmUnit(name),
		"accepted.socket":  acceptedSocket(name),
		"accepted.service": name + "-accepted.service",
		"update.service":   name + "-update.service",
		"agent.socket":     AgentSocket(name),
		"agent.service":    name + "-agent@.service",
		"update.timer":     updateTimer(name),
	}
}

// warmOnly are the templates of units that only a warm start needs.
var warmOnly = []string{"warm", "accepted.socket", "accepted.service"}

// updateOnly are those of units that only an install with AutoUpdate has.
var updateOnly = []string{"update.service", "update.timer"}

// agentOnly are those that only a host with an agent has.
var agentOnly = []string{"agent.socket", "agent.service"}

// alsoEnabled are units that start with the host, as the socket does, where they are.
func alsoEnabled(name string) []string { return []string{updateTimer(name), AgentSocket(name)} }

// AgentSocket is the name of the unit at which balancers ask.
func AgentSocket(name string) string { return name + "-agent.socket" }

// updateTimer is the name of the unit that looks for new images.
func updateTimer(name string) string { return name + "-update.timer" }

// warmUnit is the name of the unit that keeps containers waiting.
func warmUnit(name string) string { return name + "-warm.service" }

// acceptedSocket is the name of the unit that hears of their connections.
func acceptedSocket(name string) string { return name + "-accepted.socket" }

// filtersUnit is the name of the unit that filters of system calls are read from.
func filtersUnit(name string) string { return name + "-filters.service" }

// sliceUnit is the name of the unit that all of a builder's containers are in. A hyphen would
// nest it in the slice of the builder that is called like what is before it: systemd.slice(5).
func sliceUnit(name string) string { return strings.ReplaceAll(name, "-", "_") + ".slice" }

// values are what the templates are filled with.
type values struct {
	spec.Spec
	spec.Limits
	Tree, Keys, Lib, Run, ScratchFile, Entrypoint, Slice string

	FirstSlot int

	KeptFilters bool // of system calls, instead of those that nspawn makes for each container

	Warm    bool   // containers wait for their connection
	Sudo    bool   // the root can be written to
	Scratch bool   // so the home is not nspawn's own tmpfs
	Rules   string // arguments of script network

	Mark string // SO_MARK of the builder's connections, see socket(7)

	Rate        int            // of new connections from one address, in a second
	AgentListen netip.AddrPort // if there is one

	Interfaces string // the slots' ends on the host

	PoolMemoryMax spec.Size
	PoolTasksMax  int

	Sysupdate string // the program, if it is to look for new images
	Metrics   string // folder for them

	// Arguments of script cache: where it is mounted; and file, size and owner, if there is one.
	CacheDir, CacheFile string
}

// Render makes what is installed on a host for a spec but image and keys, with limits that
// [Host.Limits] has completed and the first of its slots: the units, and the scripts and
// rules that they name.
func Render(s spec.Spec, host Host, l spec.Limits, firstSlot int, autoUpdate bool) ([]File, error) {
	lib := filepath.Join(LibDir, s.Name)
	v := values{
		Spec: s, Limits: l,
		Tree: filepath.Join(ContainerDir, s.Name), Keys: filepath.Join(ConfigDir, s.Name),
		Lib: lib, Run: filepath.Join(RunDir, s.Name), ScratchFile: filepath.Join(ContainerDir, "."+s.Name+"_home"),
		Entrypoint: filepath.Join(image.LibDir, "entrypoint"), Slice: sliceUnit(s.Name),
		FirstSlot: firstSlot, Metrics: MetricsDir, CacheDir: filepath.Join(CacheDir, s.Name),
		Warm:    s.Start == spec.StartWarm,
		Sudo:    s.Root == spec.RootSudo,
		Scratch: s.Root == spec.RootSudo || s.Home == spec.HomeDisk,
		// To load a filter takes CAP_SYS_ADMIN, unless there are no new privileges.
		KeptFilters: host.Filters && s.Root != spec.RootSudo,
		Mark:        fmt.Sprintf("%#x", connectionMark|int(s.SSH.Listen.Port())),

		PoolMemoryMax: l.MemoryMax * spec.Size(s.Concurrency),
		PoolTasksMax:  l.TasksMax * s.Concurrency,
	}
	if s.Cache != 0 {
		v.CacheFile = fmt.Sprintf("%s %d %d %d", cacheFile(s.Name), s.Cache, s.User.UID, s.User.GID)
	}
	v.Rate = cmp.Or(s.SSH.Rate, spec.DefaultRate)
	v.AgentListen = netip.AddrPortFrom(s.SSH.Listen.Addr(), uint16(s.SSH.Agent))
	v.Interfaces = slotRange{firstSlot, s.Concurrency}.interfaces()
	v.Rules = strings.Join([]string{v.Run, string(s.Network), s.Name, strconv.Itoa(s.Concurrency), lib + "/rules", lib + "/allow"}, " ")
	if s.Resolver.IsValid() {
		v.Rules += " " + s.Resolver.String()
	}
	parsed, err := template.New("").Funcs(template.FuncMap{"inodes": inodes}).ParseFS(files, "files/*")
	if err != nil {
		return nil, err
	}
	names := unitNames(s.Name)
	names["rules"] = filepath.Join(lib, "rules")
	names["unmanaged"] = unmanagedFile(s.Name)
	if !v.Warm {
		maps.DeleteFunc(names, func(file, _ string) bool { return slices.Contains(warmOnly, file) })
	}
	if v.Sysupdate = sysupdateProgram; !autoUpdate {
		maps.DeleteFunc(names, func(file, _ string) bool { return slices.Contains(updateOnly, file) })
	}
	if s.SSH.Agent == 0 {
		maps.DeleteFunc(names, func(file, _ string) bool { return slices.Contains(agentOnly, file) })
	}
	var rendered []File
	for _, name := range slices.Sorted(maps.Keys(names)) {
		var text bytes.Buffer
		if err := parsed.ExecuteTemplate(&text, name, v); err != nil {
			return nil, err
		}
		rendered = append(rendered, File{names[name], text.Bytes()})
	}
	programs := []string{"enter", "started", "slot", "forget", "filters", "confine", "network", "scratch", "idmap", "prune", "deadline", "metrics", "cache", "evict"}
	if v.Warm {
		programs = append(programs, "warm")
	}
	if s.SSH.Agent != 0 {
		programs = append(programs, "agent")
	}
	if autoUpdate {
		programs = append(programs, "update")
	}
	for _, name := range programs {
		text, err := scripts.FS.ReadFile(name)
		if err != nil {
			return nil, err
		}
		rendered = append(rendered, File{filepath.Join(lib, name), text})
	}
	return append(rendered, File{filepath.Join(lib, "allow"), allowList(s)}), nil
}

// inodes is how many files a tmpfs of a size may hold. The kernel's own default goes by the
// memory of the whole host, and inodes are memory too, about a fourth of a page each.
func inodes(size spec.Size) spec.Size { return size / 4096 }

// allowList is a spec's Allow as script network reads it.
func allowList(s spec.Spec) []byte {
	var text bytes.Buffer
	for _, d := range s.Destinations() {
		host := d.Name
		if host == "" {
			host = d.Prefix.String()
		}
		fmt.Fprintln(&text, host, d.Protocol, d.Port)
	}
	return text.Bytes()
}

// Verify has systemd itself read the units, with systemd-analyze(1). Whatever it says of
// them is an error: its exit status alone lets unknown keys pass.
func Verify(ctx context.Context, units []File) error {
	dir, err := os.MkdirTemp("", "units-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	args := []string{"systemd-analyze", "verify", "--man=no"}
	for _, unit := range units {
		if !unit.isUnit() {
			continue
		}
		path := filepath.Join(dir, unit.Name)
		if err := os.WriteFile(path, unit.Text, 0o644); err != nil {
			return err
		}
		args = append(args, path)
	}
	var said bytes.Buffer
	err = command.Run(ctx, command.Cmd{Args: args, Stderr: &said})
	var ours []string
	for line := range strings.Lines(said.String()) {
		if strings.HasPrefix(line, dir) {
			ours = append(ours, strings.TrimSpace(strings.TrimPrefix(line, dir+"/")))
		}
	}
	if len(ours) > 0 {
		return fmt.Errorf("systemd does not accept the units: %s", strings.Join(ours, "; "))
	}
	var exit *command.Error
	if errors.As(err, &exit) && said.Len() > 0 {
		return fmt.Errorf("systemd does not accept the units: %w", err)
	}
	return err
}
