// Package fleet is for builders on more than one host, behind one address: HAProxy hands
// connections to hosts, systemd-sysupdate their images, and OpenSSH reaches them. Nothing here
// runs for longer than a command.
package fleet

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"ephemeral-builder/image/spec"
)

// File is the name of the file that describes a fleet.
const File = "fleet.toml"

// Fleet is what the file says.
type Fleet struct {
	// Name of the builder, the same on all hosts: that of the spec they were installed with.
	Name string `toml:"name"`

	// Agent is ssh.agent of that spec.
	Agent int `toml:"agent"`

	// Keys is the folder with runner_ed25519 and known_hosts on the runner's machine.
	Keys string `toml:"keys"`

	Balancer Balancer `toml:"balancer"`
	Hosts    []Host   `toml:"hosts"`
}

// Balancer is where runners connect to.
type Balancer struct {
	Listen netip.AddrPort `toml:"listen"`
	// Stats is where people look at its page, and this program asks who waits.
	Stats netip.AddrPort `toml:"stats"`
	// Address is what runners call it, if that is another than in Listen: a DNS name or an address.
	Address string `toml:"address"`
	// SSH is how to get onto it, for ssh(1), if Stats is a loopback address of another machine.
	SSH string `toml:"ssh"`
	// Queue is how long a connection may wait for a slot.
	Queue spec.Duration `toml:"queue"`
	// Lifetime is the longest that a job may take: limits.lifetime of the spec.
	Lifetime spec.Duration `toml:"lifetime"`
}

// Host is a machine on which the builder is installed.
type Host struct {
	Name    string         `toml:"name"`
	Address netip.AddrPort `toml:"address"`
	Slots   int            `toml:"slots"`  // concurrency of its spec
	Canary  bool           `toml:"canary"` // gets new images before the others
	SSH     string         `toml:"ssh"`    // for ssh(1); root@ADDRESS if empty
}

// Destination is how ssh(1) reaches a host as root.
func (h Host) Destination() string { return cmp.Or(h.SSH, "root@"+h.Address.Addr().String()) }

// Slots are those of all hosts together.
func (f Fleet) Slots() (sum int) {
	for _, h := range f.Hosts {
		sum += h.Slots
	}
	return sum
}

// Host is that of a name.
func (f Fleet) Host(name string) (Host, error) {
	var names []string
	for _, h := range f.Hosts {
		if h.Name == name {
			return h, nil
		}
		names = append(names, h.Name)
	}
	return Host{}, fmt.Errorf("%s is no host of the fleet, which has %s", name, strings.Join(names, ", "))
}

// Load reads the file at path.
func Load(path string) (Fleet, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Fleet{}, fmt.Errorf("%w: name the file that describes the fleet, or write one, as the README has it", err)
	}
	return Parse(path, text)
}

// Parse reads text. The error has all that is wrong, a line each, with the file's name.
func Parse(file string, text []byte) (Fleet, error) {
	f := Fleet{
		Name: spec.Default().Name, Agent: 8024, Keys: "/etc/gitlab-runner",
		Balancer: Balancer{
			Stats: netip.MustParseAddrPort("127.0.0.1:8404"),
			Queue: spec.Duration(time.Hour), Lifetime: spec.Default().Limits.Lifetime,
		},
	}
	decoder := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return f, explain(file, err)
	}
	if problems := f.problems(); len(problems) > 0 {
		for i, p := range problems {
			problems[i] = fmt.Errorf("%s: %w", file, p)
		}
		return f, errors.Join(problems...)
	}
	return f, nil
}

// explain says where the file is wrong, in one line for each place.
func explain(file string, err error) error {
	var strict *toml.StrictMissingError
	var decode *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		var all []error
		for _, unknown := range strict.Errors {
			line, _ := unknown.Position()
			key := unknown.Key()
			all = append(all, fmt.Errorf("%s:%d: unknown key %q: use %s", file, line, strings.Join(key, "."), keysBeside(key)))
		}
		return errors.Join(all...)
	case errors.As(err, &decode):
		line, _ := decode.Position()
		return fmt.Errorf("%s:%d: %s", file, line, strings.TrimPrefix(decode.Error(), "toml: "))
	}
	return fmt.Errorf("%s: %w", file, err)
}

// keysBeside are those of the table that an unknown key is in.
func keysBeside(key []string) string {
	var table any = Fleet{}
	if len(key) > 1 {
		switch key[0] {
		case "balancer":
			table = Balancer{}
		case "hosts":
			table = Host{}
		}
	}
	var names []string
	for _, field := range reflect.VisibleFields(reflect.TypeOf(table)) {
		names = append(names, field.Tag.Get("toml"))
	}
	return strings.Join(names, ", ")
}

// These words stand in HAProxy's configuration as they are, which has its own idea of others.
var (
	nameForm    = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)
	addressForm = regexp.MustCompile(`^[A-Za-z0-9.:-]+$`)
	sshForm     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@:%-]*$`) // no option of ssh's
)

// plain tells whether an address is the same on all machines, and written in one way: a zone, besides,
// may hold anything.
func plain(address netip.AddrPort) bool {
	return address.Addr().Zone() == "" && !address.Addr().Is4In6()
}

func (f Fleet) problems() (found []error) {
	report := func(format string, args ...any) { found = append(found, fmt.Errorf(format, args...)) }
	if !nameForm.MatchString(f.Name) {
		report("name %q: use the name in the hosts' spec", f.Name)
	}
	if f.Agent < 1 || f.Agent > 65535 {
		report("agent is %d: use the port that ssh.agent of the hosts' spec has", f.Agent)
	}
	if !filepath.IsAbs(f.Keys) {
		report("keys %q: use the absolute path of a folder on the runner's machine", f.Keys)
	}
	b := f.Balancer
	if !b.Listen.IsValid() || b.Listen.Port() == 0 {
		report(`balancer.listen is missing: where are runners to connect to? as in listen = "10.0.0.5:24"`)
	}
	if b.Listen.Addr().IsUnspecified() && b.Address == "" {
		report("balancer.address is missing, as balancer.listen is all addresses: what do runners call it?")
	}
	// A colon is IPv6's, or that of a port.
	_, err := netip.ParseAddr(b.Address)
	if b.Address != "" && (!addressForm.MatchString(b.Address) || err != nil && strings.Contains(b.Address, ":")) {
		report("balancer.address %q: use a DNS name or an address, without a port", b.Address)
	}
	if !plain(b.Listen) {
		report("balancer.listen is on %s: use an address without a zone, and IPv4 as such", b.Listen.Addr())
	}
	if !plain(b.Stats) {
		report("balancer.stats is on %s: use an address without a zone, and IPv4 as such", b.Stats.Addr())
	}
	if !b.Stats.IsValid() || b.Stats.Port() == 0 {
		report(`balancer.stats is no address and port, as in stats = "127.0.0.1:8404"`)
	} else if b.Stats == b.Listen {
		report("balancer.stats is %s, where runners connect to: use another port", b.Stats)
	}
	if len(f.Hosts) == 0 {
		report("there are no [[hosts]]: a fleet needs one or more")
	}
	for i, h := range f.Hosts {
		same := func(is func(Host) bool) bool { return slices.IndexFunc(f.Hosts, is) < i }
		switch {
		case !nameForm.MatchString(h.Name):
			report("hosts: name %q: use lower-case letters, digits, dots and hyphens", h.Name)
		case same(func(o Host) bool { return o.Name == h.Name }):
			report("hosts: %s is listed twice: remove one", h.Name)
		}
		switch {
		case !h.Address.IsValid() || h.Address.Port() == 0 || h.Address.Addr().IsUnspecified():
			report(`hosts: %s has no address: name where it listens, as in address = "10.0.0.11:24"`, h.Name)
		case !plain(h.Address):
			report("hosts: %s has the address %s: use one without a zone, and IPv4 as such", h.Name, h.Address)
		case same(func(o Host) bool { return o.Address == h.Address }):
			report("hosts: %s has the address of another host, %s: remove one", h.Name, h.Address)
		case h.Address == b.Listen:
			report("hosts: %s has the address of the balancer, %s: let one of them listen on another port", h.Name, h.Address)
		}
		if h.Slots < 1 || h.Slots > 1000 {
			report("hosts: %s has %d slots: use concurrency of its spec, 1 to 1000", h.Name, h.Slots)
		}
		if h.SSH != "" && !sshForm.MatchString(h.SSH) {
			report("hosts: %s has ssh %q: use USER@HOST or a name from ~/.ssh/config, where a port can stand", h.Name, h.SSH)
		}
	}
	if b.SSH != "" && !sshForm.MatchString(b.SSH) {
		report("balancer.ssh %q: use USER@HOST or a name from ~/.ssh/config, where a port can stand", b.SSH)
	}
	return found
}

// Canaries are the addresses of those that get new images first.
func (f Fleet) Canaries() (all []netip.Addr) {
	for _, h := range f.Hosts {
		if h.Canary {
			all = append(all, h.Address.Addr())
		}
	}
	return all
}

// Called is how runners call the balancer, without its port.
func (b Balancer) Called() string { return cmp.Or(b.Address, b.Listen.Addr().String()) }
