// Package status says what the builders of a host are doing: their containers, slots and images.
// It asks systemd, the kernel's control groups and the files that the units' scripts keep.
package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"ephemeral-builder/units"
)

// Builder is one that is installed.
type Builder struct {
	Name       string      `json:"name"`
	Listen     string      `json:"listen"` // address and port
	Active     bool        `json:"active"` // the socket listens
	Version    string      `json:"version"`
	Slots      int         `json:"slots"`
	Free       int         `json:"free"`    // that nobody has, not even a container that waits
	Waiting    int         `json:"waiting"` // containers that wait for a connection, with start = "warm"
	Accepted   uint32      `json:"accepted"`
	Refused    uint32      `json:"refused"`         // as all slots were taken, both since the socket's start
	Agent      int         `json:"agent,omitempty"` // port at which balancers ask
	Drained    bool        `json:"drained"`         // balancers are told to send nothing new
	Trial      bool        `json:"trial"`           // nobody knows yet whether the image serves, which an update has just installed
	Updates    string      `json:"updates"`         // "none", "on", or "failed" if the last one did
	Containers []Container `json:"containers"`
	Images     []Image     `json:"images"`
}

// Container is one that serves a connection. What the kernel does not count is zero.
type Container struct {
	Unit      string        `json:"unit"`
	Slot      int           `json:"slot"`
	Machine   string        `json:"machine"` // its name for machinectl
	Client    string        `json:"client"`  // the port that it comes from, with its address where that is known
	Since     time.Time     `json:"since"`
	Version   string        `json:"version"`
	CPU       time.Duration `json:"cpu_nanoseconds"`
	Memory    uint64        `json:"memory"` // bytes
	Peak      uint64        `json:"memory_peak"`
	MemoryMax uint64        `json:"memory_max"`
	Tasks     uint64        `json:"tasks"`
	TasksMax  uint64        `json:"tasks_max"`
	Command   string        `json:"command"` // that started last

	payload string // its cgroup
}

// Image is a version on the disk.
type Image struct {
	Version string `json:"version"`
	Current bool   `json:"current"` // new containers get it
	InUse   int    `json:"in_use"`  // by so many containers, those that wait included
	Refused bool   `json:"refused"` // it did not serve after an update
}

// Read looks at the builder of a name, or at all of them if it is empty.
func Read(ctx context.Context, name string) ([]Builder, error) {
	names, err := units.Names()
	if err != nil {
		return nil, err
	}
	if name != "" {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("%s is not installed on this host, which has %s", name, cmp.Or(strings.Join(names, ", "), "no builder"))
		}
		names = []string{name}
	}
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("no connection to systemd: is it this machine's PID 1? install dbus: %w", err)
	}
	defer conn.Close()
	var all []Builder
	for _, name := range names {
		b, err := read(ctx, conn, name)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

func read(ctx context.Context, conn *dbus.Conn, name string) (Builder, error) {
	b := Builder{Name: name}
	versions, current, err := units.Versions(name)
	if err != nil {
		return b, err
	}
	b.Version = current
	socket, err := conn.GetUnitTypePropertiesContext(ctx, name+".socket", "Socket")
	if err != nil {
		return b, fmt.Errorf("asking systemd about %s.socket: %w", name, err)
	}
	b.Accepted, _ = socket["NAccepted"].(uint32)
	b.Refused, _ = socket["NRefused"].(uint32)
	b.Listen = listens(socket)
	state := func(unit string) string {
		state, err := conn.GetUnitPropertyContext(ctx, unit, "ActiveState")
		if err != nil {
			return ""
		}
		text, _ := state.Value.Value().(string)
		return text
	}
	b.Active = state(name+".socket") == "active"
	agent, err := conn.GetUnitTypePropertiesContext(ctx, units.AgentSocket(name), "Socket")
	if err != nil {
		return b, fmt.Errorf("asking systemd about %s: %w", units.AgentSocket(name), err)
	}
	if address, err := netip.ParseAddrPort(listens(agent)); err == nil {
		b.Agent = int(address.Port())
	}
	switch b.Updates = "none"; {
	case state(name+"-update.service") == "failed":
		b.Updates = "failed"
	case state(name+"-update.timer") == "active":
		b.Updates = "on"
	}
	run := filepath.Join(units.RunDir, name)
	_, err = os.Stat(units.KeysOf(name).Drained)
	b.Drained = err == nil
	b.Trial = units.OnTrial(name)
	if b.Slots, err = count(filepath.Join(run, "known")); err != nil {
		return b, err
	}
	if b.Free, err = count(filepath.Join(run, "free")); err != nil {
		return b, err
	}
	used, err := os.ReadDir(filepath.Join(run, "used"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	inUse := map[string]int{}
	for _, entry := range used {
		number, unit, _ := strings.Cut(entry.Name(), ":")
		c := Container{Unit: unit}
		if c.Slot, err = strconv.Atoi(number); err != nil {
			continue
		}
		text, _ := os.ReadFile(filepath.Join(run, "used", entry.Name())) // it may have ended
		c.Version = strings.TrimPrefix(strings.TrimSpace(string(text)), name+"_")
		serves, err := c.fill(ctx, conn, name)
		if err != nil {
			return b, err
		}
		inUse[c.Version]++
		if serves {
			b.Containers = append(b.Containers, c)
		} else {
			b.Waiting++
		}
	}
	slices.SortFunc(b.Containers, func(a, b Container) int { return a.Since.Compare(b.Since) })
	for _, version := range versions {
		b.Images = append(b.Images, Image{version, version == current, inUse[version], units.Refused(name, version)})
	}
	return b, nil
}

// listens is where a socket does, of its properties, or empty if there is no such unit.
func listens(socket map[string]any) string {
	all, _ := socket["Listen"].([][]any) // of kinds and addresses
	if len(all) == 0 || len(all[0]) < 2 {
		return ""
	}
	address, _ := all[0][1].(string)
	return address
}

// count is how many files a folder has; none if it is not there.
func count(dir string) (int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return len(entries), err
}

// fill asks for the rest. It tells a container that serves from one that waits, or has just ended.
func (c *Container) fill(ctx context.Context, conn *dbus.Conn, name string) (serves bool, err error) {
	unit, err := conn.GetAllPropertiesContext(ctx, c.Unit)
	if err != nil {
		return false, fmt.Errorf("asking systemd about %s: %w", c.Unit, err)
	}
	text := func(key string) string { s, _ := unit[key].(string); return s }
	number := func(key string) uint64 {
		n, _ := unit[key].(uint64)
		if n == ^uint64(0) { // systemd's "infinity", or "not known"
			return 0
		}
		return n
	}
	since := number("ActiveEnterTimestamp")
	instance := strings.TrimSuffix(strings.TrimPrefix(c.Unit, name+"@"), ".service")
	if _, err := strconv.Atoi(instance); err == nil {
		port, ok := strings.CutPrefix(text("StatusText"), "serving port ")
		if !ok {
			return false, nil
		}
		c.Machine, c.Client, since = name+"-"+instance, "port "+port, number("WatchdogTimestamp")
	} else {
		// N-LISTENER:PORT-CLIENT:PORT, as systemd.socket(5) names what it accepts.
		c.Client = instance[strings.LastIndex(instance, "-")+1:]
		c.Machine = name + "-" + c.Client[strings.LastIndex(c.Client, ":")+1:]
	}
	c.Since = time.UnixMicro(int64(since))
	c.CPU = time.Duration(number("CPUUsageNSec"))
	c.Memory, c.MemoryMax = number("MemoryCurrent"), number("MemoryMax")
	c.Tasks, c.TasksMax = number("TasksCurrent"), number("TasksMax")
	cgroup := filepath.Join("/sys/fs/cgroup", text("ControlGroup"))
	if peak, err := os.ReadFile(filepath.Join(cgroup, "memory.peak")); err == nil {
		c.Peak, _ = strconv.ParseUint(strings.TrimSpace(string(peak)), 10, 64)
	}
	c.payload = filepath.Join(cgroup, "payload")
	c.Command = latest(c.payload)
	return true, nil
}

// latest is the command of the process of a control group, or of those below it, that started last.
func latest(cgroup string) string {
	var pid int
	var newest uint64
	_ = filepath.WalkDir(cgroup, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return nil // it can be gone by now
		}
		text, _ := os.ReadFile(path)
		for _, field := range strings.Fields(string(text)) {
			one, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			if at := started(one); at > newest || at == newest && one > pid {
				newest, pid = at, one
			}
		}
		return nil
	})
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " "))
}

// started is when a process did, in ticks since boot: the 22nd field of proc_pid_stat(5), of which
// the second may have anything in its parentheses.
func started(pid int) uint64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(text)[strings.LastIndexByte(string(text), ')')+1:])
	if len(fields) < 20 {
		return 0
	}
	at, _ := strconv.ParseUint(fields[19], 10, 64)
	return at
}
