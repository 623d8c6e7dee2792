package lab

import (
	"net/netip"
	"os"
	"strings"
	"testing"
)

// TestJoin needs what TestLab needs.
func TestJoin(t *testing.T) {
	cfg := config(t, Container)
	labs := map[string]*Lab{}
	for _, name := range []string{"hub", "near", "far"} {
		cfg.Dir = labDir(t)
		labs[name] = start(t, cfg)
	}
	ctx, hub, near, far := t.Context(), labs["hub"], labs["near"], labs["far"]
	before, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	if err := hub.Bridge(ctx, netip.MustParsePrefix("198.51.100.1/24")); err != nil {
		t.Fatal(err)
	}
	for address, l := range map[string]*Lab{"198.51.100.2/24": near, "198.51.100.3/24": far} {
		if err := l.Join(ctx, hub, netip.MustParsePrefix(address)); err != nil {
			t.Fatal(err)
		}
	}
	// Whoever answers has the banner of sshd.
	const ask = "timeout 5 bash -c 'exec 3<>/dev/tcp/198.51.100.%s/22 && head -c 4 <&3' 2>/dev/null || true"
	reach := func(from *Lab, to, want string) {
		t.Helper()
		if got := run(t, dial(t, from), strings.ReplaceAll(ask, "%s", to)); got != want {
			t.Errorf("from %s to %s: got %q, want %q", from.desc.Dir, to, got, want)
		}
	}
	reach(hub, "2", "SSH-")
	reach(near, "1", "SSH-")
	reach(near, "3", "SSH-")

	run(t, dial(t, near), "systemctl --no-block reboot")
	if err := near.WaitBoot(ctx, 2); err != nil {
		t.Fatal(err)
	}
	reach(near, "3", "SSH-")
	reach(far, "2", "SSH-")
	if got := run(t, dial(t, near), "ip route show default; ip -6 route show default"); got != "" {
		t.Errorf("a route leads out: %s", got)
	}

	if err := near.Unplug(ctx, hub); err != nil {
		t.Fatal(err)
	}
	reach(hub, "2", "")
	reach(hub, "3", "SSH-")
	run(t, dial(t, near), "true") // which lives on
	if err := near.Join(ctx, hub, netip.MustParsePrefix("198.51.100.2/24")); err != nil {
		t.Fatal(err)
	}
	reach(hub, "2", "SSH-")

	if err := far.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := far.Join(ctx, hub, netip.MustParsePrefix("198.51.100.3/24")); err == nil {
		t.Error("a lab that has ended has joined")
	}
	reach(near, "1", "SSH-")
	after, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	if b, a := names(before), names(after); b != a {
		t.Errorf("the machine's own interfaces: got %s, want %s", a, b)
	}
}

// names are those of the interfaces in /proc/net/dev.
func names(dev []byte) string {
	var names []string
	for line := range strings.Lines(string(dev)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return strings.Join(names, " ")
}

func TestJoinNeedsContainers(t *testing.T) {
	vm := &Lab{desc: Description{Kind: VM}}
	if err := vm.Bridge(t.Context(), netip.MustParsePrefix("198.51.100.1/24")); err == nil {
		t.Error("a VM has got a bridge, in the machine's own network")
	}
}
