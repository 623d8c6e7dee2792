package fleet

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/prereq"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/units/runner"
)

// Files of a fleet's folder that others read.
const (
	haproxyFile   = "haproxy.cfg"
	knownFile     = "known_hosts"       // the authority, for all hosts
	ownKeysFile   = "known_hosts.own"   // the key of each host, for who has no authority
	runnerConfig  = "runner.toml"       // config.toml with one section, through the balancer
	runnersConfig = "runner-hosts.toml" // config.toml with a section for each host, without a balancer

	instanceConfig = "runner-instance.toml" // config.toml for the executor instance, likewise
)

//go:embed instance.toml
var instanceText string

var instanceTemplate = template.Must(template.New(instanceConfig).Parse(instanceText))

// Options say what to write.
type Options struct {
	Dir     string // for the files
	URL     string // of GitLab
	Token   string // file that holds the runner's token
	Offline bool   // ask no host whether it is as the fleet's file says
}

// What stands for what is not known.
const (
	exampleURL   = "https://gitlab.example.com/"
	exampleToken = "glrt-..."
)

// Write writes all that balancer and runners need into a folder, and says what is for whom. Nothing
// is written if a host differs from what the file says, or its key from what it was.
func (f Fleet) Write(ctx context.Context, rep *progress.Reporter, o Options) (text string, err error) {
	if err := prereq.Ensure(ctx, rep, prereq.Need{Program: "haproxy", Package: "haproxy"}); err != nil {
		return "", err
	}
	var own []byte
	if !o.Offline {
		if own, err = f.ownKeys(ctx, filepath.Join(o.Dir, ownKeysFile)); err != nil {
			return "", err
		}
	}
	url, token := exampleURL, exampleToken
	if o.URL != "" {
		url = o.URL
	}
	if o.Token != "" {
		if token, err = runner.ReadToken(o.Token); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return "", err
	}
	authority, err := ensureKey(filepath.Join(o.Dir, authorityFile), f.Name+" hosts")
	if err != nil {
		return "", err
	}
	if _, err := ensureKey(filepath.Join(o.Dir, runnerFile), f.Name+" runners"); err != nil {
		return "", err
	}
	haproxy, err := f.HAProxy()
	if err != nil {
		return "", err
	}
	err = writeChecked(filepath.Join(o.Dir, haproxyFile), haproxy, func(path string) error { return verifyHAProxy(ctx, path) })
	if err != nil {
		return "", err
	}
	instance, err := f.instance(url, token)
	if err != nil {
		return "", err
	}
	for _, file := range []struct {
		name string
		text []byte
		mode fs.FileMode
	}{
		{knownFile, f.authorityLine(authority.PublicKey()), 0o644},
		{ownKeysFile, own, 0o644},
		{runnerConfig, f.config(url, token, f.balanced()), 0o600},
		{runnersConfig, f.config(url, token, f.single()...), 0o600},
		{instanceConfig, instance, 0o600},
	} {
		if file.text == nil {
			continue
		}
		if err := atomicfile.Write(filepath.Join(o.Dir, file.name), file.text, file.mode); err != nil {
			return "", err
		}
	}
	return f.explain(o), nil
}

// ownKeys are lines of known_hosts with the hosts' own keys, by their own addresses and behind the
// balancer's. It fails if a host differs from the fleet's file, or its key from that in the file at
// path.
func (f Fleet) ownKeys(ctx context.Context, path string) (lines []byte, err error) {
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var errs []error
	for i, got := range f.ask(ctx) {
		h := f.Hosts[i]
		if err := f.differs(h, got); err != nil {
			errs = append(errs, err)
			continue
		}
		address := knownhosts.Normalize(h.Address.String())
		line := knownhosts.Line([]string{h.Address.String(), f.endpoint()}, got.hostKey) + "\n"
		for old := range strings.Lines(string(before)) {
			if strings.HasPrefix(old, address+",") && !strings.HasSuffix(old, line[strings.IndexByte(line, ' '):]) {
				errs = append(errs, fmt.Errorf("%s has another host key than before: if it was installed anew, take its line out of %s; if not, somebody else answers there", h.Name, path))
			}
		}
		lines = append(lines, line...)
	}
	return lines, errors.Join(errs...)
}

// endpoint is where runners connect to.
func (f Fleet) endpoint() string {
	return fmt.Sprintf("%s:%d", bracketed(f.Balancer.Called()), f.Balancer.Listen.Port())
}

func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// authorityLine is the line of known_hosts by which all hosts are known: SSH_KNOWN_HOSTS FILE FORMAT
// in sshd(8).
func (f Fleet) authorityLine(key ssh.PublicKey) []byte {
	addresses := []string{knownhosts.Normalize(f.endpoint())}
	for _, h := range f.Hosts {
		addresses = append(addresses, knownhosts.Normalize(h.Address.String()))
	}
	return fmt.Appendf(nil, "@cert-authority %s %s", strings.Join(addresses, ","), ssh.MarshalAuthorizedKey(key))
}

// section is one of the runner's, without token and address of GitLab.
func (f Fleet) section(name, host string, port uint16, limit int) runner.Section {
	return runner.Section{
		Name: name, Limit: limit, Host: host, Port: int(port), User: "builder",
		IdentityFile: filepath.Join(f.Keys, runnerFile), KnownHosts: filepath.Join(f.Keys, knownFile),
		BuildsDir: "/home/builder/builds", CacheDir: "/home/builder/cache",
	}
}

// balanced is the section that goes through the balancer.
func (f Fleet) balanced() runner.Section {
	return f.section(f.Name, f.Balancer.Called(), f.Balancer.Listen.Port(), f.Slots())
}

// single are sections of which each goes to one host.
func (f Fleet) single() (all []runner.Section) {
	for _, h := range f.Hosts {
		all = append(all, f.section(f.Name+"-"+h.Name, h.Address.Addr().String(), h.Address.Port(), h.Slots))
	}
	return all
}

// config is a whole config.toml.
func (f Fleet) config(url, token string, sections ...runner.Section) []byte {
	var text bytes.Buffer
	fmt.Fprintf(&text, "concurrent = %d\n", f.Slots())
	for _, s := range sections {
		s.URL, s.Token = url, token
		fmt.Fprintf(&text, "\n%s", s)
	}
	return text.Bytes()
}

// instance is a whole config.toml for an executor that knows the hosts by itself.
func (f Fleet) instance(url, token string) ([]byte, error) {
	var text bytes.Buffer
	smallest := slices.MinFunc(f.Hosts, func(a, b Host) int { return a.Slots - b.Slots }).Slots
	err := instanceTemplate.Execute(&text, struct {
		Fleet
		URL, Token string
		Smallest   int
	}{f, url, token, smallest})
	return text.Bytes(), err
}

// explain says what is for whom.
func (f Fleet) explain(o Options) string {
	var text strings.Builder
	in := func(name string) string { return filepath.Join(o.Dir, name) }
	fmt.Fprintf(&text, "wrote to %s, for %d hosts with %d slots:\n", o.Dir, len(f.Hosts), f.Slots())
	fmt.Fprintf(&text, "  %-20s for the balancer, as /etc/haproxy/haproxy.cfg: haproxy has read it\n", haproxyFile)
	fmt.Fprintf(&text, "  %-20s for the runner: a section through the balancer\n", runnerConfig)
	fmt.Fprintf(&text, "  %-20s instead, for a runner without a balancer: a section for each host\n", runnersConfig)
	fmt.Fprintf(&text, "  %-20s instead, for its executor instance, with which no job has run yet\n", instanceConfig)
	fmt.Fprintf(&text, "  %-20s for the runner, in %s, with %s: the hosts' authority\n", knownFile, f.Keys, runnerFile)
	if !o.Offline {
		fmt.Fprintf(&text, "  %-20s instead, with the hosts' own keys\n", ownKeysFile)
	}
	fmt.Fprintf(&text, "  %-20s for nobody: who has it can pass for any host\n", authorityFile)
	fmt.Fprintf(&text, "\neach host's spec has, beside its concurrency, and with the runner's address in from, too, if it goes there itself:\n\n")
	var canaries []string
	for _, address := range f.Canaries() {
		canaries = append(canaries, fmt.Sprintf("%q", address))
	}
	if len(canaries) > 0 {
		fmt.Fprintf(&text, "  canaries = [%s]\n", strings.Join(canaries, ", "))
	}
	from := f.Balancer.Listen.Addr().String()
	if f.Balancer.Listen.Addr().IsUnspecified() || f.Balancer.Listen.Addr().IsLoopback() {
		from = "ADDRESS OF THE BALANCER"
	}
	all := netip.IPv4Unspecified()
	if slices.ContainsFunc(f.Hosts, func(h Host) bool { return h.Address.Addr().Is6() }) {
		all = netip.IPv6Unspecified()
	}
	fmt.Fprintf(&text, "  [ssh]\n  listen = \"%s\"\n  from = [%q%s]\n  agent = %d\n", netip.AddrPortFrom(all, f.Hosts[0].Address.Port()), from, f.others(), f.Agent)
	fmt.Fprintf(&text, "\nlet the hosts have their certificates and the runners' key with: %s\n", command.Self("fleet:certify"))
	if o.URL == "" || o.Token == "" {
		fmt.Fprintf(&text, "%s and %s have example values, as there was no -url or no -token\n", in(runnerConfig), in(runnersConfig))
	}
	return text.String()
}

// others are the hosts themselves, which ask canaries.
func (f Fleet) others() string {
	var text strings.Builder
	if len(f.Canaries()) > 0 {
		for _, h := range f.Hosts {
			fmt.Fprintf(&text, ", %q", h.Address.Addr())
		}
	}
	return text.String()
}
