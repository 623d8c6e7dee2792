package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"ephemeral-builder/image/command"
)

// lan is the bridge of a hub, and lanEnd the interface of each lab that has joined it.
const (
	lan    = "lan"
	lanEnd = "lan0"
)

// Bridge gives a container an Ethernet that others can [Lab.Join], and an IPv4 address there. It
// is in the lab's own network namespace, and leads to those labs only.
func (l *Lab) Bridge(ctx context.Context, address netip.Prefix) error {
	hub, err := l.network()
	if err != nil {
		return err
	}
	defer hub.Close()
	return ip(ctx, hub,
		"link add name "+lan+" address "+hardware(address)+" type bridge",
		"address add "+address.String()+" dev "+lan,
		"link set dev "+lan+" up")
}

// Join connects a container to the Ethernet of hub, with an IPv4 address. It stays connected when
// it boots again, until [Lab.Unplug] or its end.
func (l *Lab) Join(ctx context.Context, hub *Lab, address netip.Prefix) error {
	here, err := l.network()
	if err != nil {
		return err
	}
	defer here.Close()
	there, err := hub.network()
	if err != nil {
		return err
	}
	defer there.Close()
	// Made in the hub's namespace: the machine's own never sees it.
	err = ip(ctx, there,
		"link add name "+l.port()+" type veth peer name "+lanEnd+" address "+hardware(address)+" netns "+fdPath(here),
		"link set dev "+l.port()+" master "+lan+" up")
	if err != nil {
		return err
	}
	return ip(ctx, here,
		"address add "+address.String()+" dev "+lanEnd,
		"link set dev "+lanEnd+" up")
}

// Unplug takes a container that has joined hub from its Ethernet, as if the cable were pulled.
func (l *Lab) Unplug(ctx context.Context, hub *Lab) error {
	there, err := hub.network()
	if err != nil {
		return err
	}
	defer there.Close()
	return ip(ctx, there, "link delete dev "+l.port())
}

// port is the hub's end of the cable to l. Its name is the process, which the next lab in the
// same directory does not share.
func (l *Lab) port() string { return fmt.Sprintf("%s-%d", lan, l.desc.Process.PID) }

// hardware is an Ethernet address that follows from address. A bridge that has not been given one
// changes it with its ports, and a new lab in the place of another shall be found at once.
func hardware(address netip.Prefix) string {
	four := address.Addr().As4()
	return net.HardwareAddr(append([]byte{2, 0}, four[:]...)).String()
}

// network opens the lab's network namespace. A VM's is in QEMU: that of its process is the
// machine's.
func (l *Lab) network() (*os.File, error) {
	if l.desc.Kind != Container {
		return nil, fmt.Errorf("the lab in %s can't join others: choose the kind %q", l.desc.Dir, Container)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", l.desc.Process.PID))
	if err == nil && !l.desc.Process.alive() { // then f may be another process's
		f.Close()
		err = errEnded
	}
	if err != nil {
		return nil, fmt.Errorf("the network of the lab in %s: %w", l.desc.Dir, err)
	}
	return f, nil
}

// fdPath is where other processes find f, as long as it is open.
func fdPath(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

// ip runs commands of ip(8) in a network namespace, up to the first that fails.
func ip(ctx context.Context, namespace *os.File, commands ...string) error {
	err := command.Run(ctx, command.Cmd{
		Args:  []string{"nsenter", "--net=" + fdPath(namespace), "ip", "-batch", "-"},
		Env:   []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin"}, // which not all people have
		Stdin: strings.NewReader(strings.Join(commands, "\n")),
	})
	if err != nil {
		return fmt.Errorf("joining labs by ip: %s: %w", strings.Join(commands, "; "), err)
	}
	return nil
}
