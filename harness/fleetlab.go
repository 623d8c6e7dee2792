package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"ephemeral-builder/harness/lab"
	"ephemeral-builder/harness/sshclient"
	"ephemeral-builder/image/prereq"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/units"
)

// fleetKind is a kind of lab beside those of one host: see [fleet].
const fleetKind = "fleet"

// balancerName is that of the host without a builder, hostNames those of the others.
const balancerName = "balancer"

var hostNames = []string{"alpha", "beta", "gamma"}

func fleetNames() []string { return append([]string{balancerName}, hostNames...) }

// fleet is a host that has no builder, and others that may have one, on an Ethernet of their own.
// They know each other by name, and from the balancer "ssh alpha" leads to one as root.
type fleet struct {
	balancer *host
	hosts    map[string]*host

	cfg  lab.Config        // of all, Dir being that in which each has one of its own
	keys map[string]string // of each host's builder, as a tar: see keep
	mu   sync.Mutex        // held around each change of the balancer's known_hosts
}

// hostKind is the kind that the one host of a lab has, or all hosts of a fleet.
func hostKind(kind string) (lab.Kind, error) {
	if kind == fleetKind {
		return lab.Container, nil
	}
	k, err := lab.ParseKind(kind)
	if err != nil {
		err = fmt.Errorf("%w, or %q", err, fleetKind)
	}
	return k, err
}

// startFleet is startHost for a fleet, whose labs are in folders of cfg.Dir.
func startFleet(ctx context.Context, rep *progress.Reporter, cfg lab.Config, editions ...edition) (_ *fleet, err error) {
	if err := prereq.Ensure(ctx, rep, slices.Concat(lab.Needs(cfg.Kind), lab.JoinNeeds())...); err != nil {
		return nil, err
	}
	materials, err := gather(ctx, rep, cfg.Suite, editions...)
	if err != nil {
		return nil, err
	}
	cfg.Tree, cfg.Share, cfg.Log = materials.hostTree, materials.share, rep.Note
	stage := rep.Stage("lab")
	defer stage.Fail() // of no effect after Done
	stage.Detail("starting a fleet with %s", cfg.Suite)
	f := &fleet{cfg: cfg, hosts: map[string]*host{}, keys: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close(context.WithoutCancel(ctx)))
		}
	}()
	if err := f.boot(ctx); err != nil {
		return nil, err
	}
	if err := f.balancer.lab.Bridge(ctx, fleetAddress(balancerName)); err != nil {
		return nil, err
	}
	if _, err := f.balancer.output(ctx, "ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519 && touch .ssh/known_hosts"); err != nil {
		return nil, err
	}
	if err := f.each(ctx, f.connect); err != nil {
		return nil, err
	}
	stage.Done("%s", cfg.Dir)
	return f, nil
}

// fleetAddress is that of a host on the fleet's Ethernet, in a range for examples (RFC 5737).
func fleetAddress(name string) netip.Prefix {
	last := byte(1)
	if i := slices.Index(hostNames, name); i >= 0 {
		last = byte(11 + i)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, last}), 24)
}

// boot starts the labs. What has started is in f even if others have not.
func (f *fleet) boot(ctx context.Context) error {
	names := fleetNames()
	hosts := make([]*host, len(names))
	group, ctx := errgroup.WithContext(ctx)
	for i, name := range names {
		group.Go(func() (err error) {
			hosts[i], err = f.bootOne(ctx, name)
			return err
		})
	}
	err := group.Wait()
	for i, h := range hosts {
		switch {
		case h == nil:
		case names[i] == balancerName:
			f.balancer = h
		default:
			f.hosts[h.name] = h
		}
	}
	return err
}

func (f *fleet) bootOne(ctx context.Context, name string) (*host, error) {
	cfg := f.cfg
	cfg.Dir = filepath.Join(cfg.Dir, name)
	h, err := bootHost(ctx, cfg)
	if err != nil {
		return nil, err
	}
	h.name = name
	var known strings.Builder
	for _, other := range fleetNames() {
		fmt.Fprintf(&known, "%s %s\\n", fleetAddress(other).Addr(), other)
	}
	if _, err := h.output(ctx, fmt.Sprintf("echo %[1]s >/etc/hostname && hostname %[1]s && printf '%[2]s' >>/etc/hosts", name, &known)); err != nil {
		return nil, errors.Join(err, h.close(context.WithoutCancel(ctx)))
	}
	return h, nil
}

// connect plugs a host in, and lets the balancer's root be root there.
func (f *fleet) connect(ctx context.Context, h *host) error {
	if err := h.lab.Join(ctx, f.balancer.lab, fleetAddress(h.name)); err != nil {
		return err
	}
	root, err := f.balancer.output(ctx, "cat .ssh/id_ed25519.pub")
	if err != nil {
		return err
	}
	// The second of sshd's files, as a lab writes the first at each boot.
	public, err := h.output(ctx, "echo '"+strings.TrimSpace(root)+"' >.ssh/authorized_keys2 && ssh-keygen -y -f /etc/ssh/ssh_host_ed25519_key")
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err = f.balancer.output(ctx, fmt.Sprintf("sed -i '/^%[1]s /d' .ssh/known_hosts && echo '%[1]s %[2]s' >>.ssh/known_hosts", h.name, strings.TrimSpace(public)))
	return err
}

// all are those that were started, the balancer first.
func (f *fleet) all() []*host {
	hosts := []*host{f.balancer}
	for _, name := range hostNames {
		hosts = append(hosts, f.hosts[name])
	}
	return slices.DeleteFunc(hosts, func(h *host) bool { return h == nil })
}

// each does something on all hosts but the balancer, at once.
func (f *fleet) each(ctx context.Context, work func(context.Context, *host) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, h := range f.hosts {
		group.Go(func() error { return work(ctx, h) })
	}
	return group.Wait()
}

// keep notes the keys that the builders have, for restore.
func (f *fleet) keep(ctx context.Context) error {
	for name, h := range f.hosts {
		keys, err := h.output(ctx, "tar -C / -c "+strings.TrimPrefix(units.ConfigDir, "/"))
		if err != nil {
			return err
		}
		f.keys[name] = keys
	}
	return nil
}

// restore starts hosts anew that have ended, gives all the keys that they had, and stops what a
// script has left, if the names of its units begin with "fleet-".
func (f *fleet) restore(ctx context.Context) error {
	return f.each(ctx, func(ctx context.Context, h *host) error {
		if h.ended() {
			if err := f.renew(ctx, h); err != nil {
				return err
			}
		}
		if err := h.reconnect(ctx); err != nil {
			return err
		}
		var said bytes.Buffer
		if err := h.run(ctx, "systemctl stop 'fleet-*' && tar -C / -x", strings.NewReader(f.keys[h.name]), &said, &said); err != nil {
			return fmt.Errorf("giving %s its keys: %w\n%s", h, err, &said)
		}
		return nil
	})
}

// ended tells whether h was halted, or has ended by itself.
func (h *host) ended() bool {
	select {
	case <-h.lab.Done():
		return true
	default:
		return h.halted
	}
}

// renew puts another lab in the place of one that has ended.
func (f *fleet) renew(ctx context.Context, h *host) error {
	if err := h.close(ctx); err != nil {
		return err
	}
	fresh, err := f.bootOne(ctx, h.name)
	if err != nil {
		return err
	}
	if err := f.connect(ctx, fresh); err != nil {
		return errors.Join(err, fresh.close(context.WithoutCancel(ctx)))
	}
	*h = *fresh
	return nil
}

// halt ends a host as a power cut does. Its cable goes first, else its kernel would say goodbye to
// all that it has connections with.
func (f *fleet) halt(ctx context.Context, name string) error {
	h := f.hosts[name]
	if err := h.lab.Unplug(ctx, f.balancer.lab); err != nil {
		return err
	}
	h.halted = true
	// Its disk is written before its process is gone, which takes up to half a minute here and none
	// to whoever looks from outside. The next Close waits for this one.
	go func(l *lab.Lab) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ownTimeout)
		defer cancel()
		_ = l.Close(ctx)
	}(h.lab)
	return nil
}

// builder says how to reach the builders NAME through the balancer.
func (f *fleet) builder(ctx context.Context, name string) (target sshclient.Target, identity []byte, err error) {
	// Scripts give all builders the keys of the first: the place to say it if others are meant.
	target, identity, err = f.hosts[hostNames[0]].builder(ctx, name)
	target.Addr = f.balancer.lab.Builder().String()
	return target, identity, err
}

func (f *fleet) close(ctx context.Context) error {
	var group errgroup.Group
	for _, h := range f.all() {
		group.Go(func() error { return h.close(ctx) })
	}
	return group.Wait()
}

// openLabs are the labs in dir, or of a fleet in it, that were not closed.
func openLabs(dir string) (labs []*lab.Lab, err error) {
	for _, name := range append(fleetNames(), "") {
		l, err := lab.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		labs = append(labs, l)
	}
	return labs, nil
}

// closeLabs closes them, whether or not they still run.
func closeLabs(ctx context.Context, dir string) error {
	labs, err := openLabs(dir)
	if err != nil {
		return err
	}
	var group errgroup.Group
	for _, l := range labs {
		group.Go(func() error { return l.Close(ctx) })
	}
	return group.Wait()
}
