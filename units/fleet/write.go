package fleet

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/prereq"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/units"
	"ephemeral-builder/units/runner"
)

// Files of a fleet's folder that others read.
const (
	haproxyFile   = "haproxy.cfg"
	knownFile     = "known_hosts"       // the authority, for all hosts
	ownKeysFile   = "known_hosts.own"   // the key of each host, for who gives the hosts no certificates
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
	url, token := cmp.Or(o.URL, exampleURL), exampleToken
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
	return f.summary(o)
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
	return net.JoinHostPort(f.Balancer.Called(), strconv.Itoa(int(f.Balancer.Listen.Port())))
}

// authorityLine is the line of known_hosts by which all hosts are known.
func (f Fleet) authorityLine(key ssh.PublicKey) []byte {
	addresses := []string{f.endpoint()}
	for _, h := range f.Hosts {
		addresses = append(addresses, h.Address.String())
	}
	return units.AuthorityLine(addresses, key)
}

// section is one of the runner's, without token and address of GitLab.
func (f Fleet) section(name, host string, port uint16, limit int) runner.Section {
	section := runner.ForBuilder(name, host, port, limit)
	section.IdentityFile, section.KnownHosts = filepath.Join(f.Keys, runnerFile), filepath.Join(f.Keys, knownFile)
	return section
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

//go:embed summary.txt
var summaryText string

var summaryTemplate = template.Must(template.New("summary.txt").Parse(summaryText))

// summary says what is for whom.
func (f Fleet) summary(o Options) (string, error) {
	var canaries, from []string
	add := func(list []string, address netip.Addr) []string { // a balancer can be a host, too
		if quoted := strconv.Quote(address.String()); !slices.Contains(list, quoted) {
			list = append(list, quoted)
		}
		return list
	}
	for _, address := range f.Canaries() {
		canaries = add(canaries, address)
	}
	balancer := f.Balancer.Listen.Addr()
	if balancer.IsUnspecified() || balancer.IsLoopback() {
		from = append(from, `"ADDRESS OF THE BALANCER"`)
	} else {
		from = add(from, balancer)
	}
	listen := netip.IPv4Unspecified()
	for _, h := range f.Hosts {
		if len(canaries) > 0 { // which the others ask
			from = add(from, h.Address.Addr())
		}
		if h.Address.Addr().Is6() {
			listen = netip.IPv6Unspecified()
		}
	}
	var text strings.Builder
	err := summaryTemplate.Execute(&text, struct {
		Fleet
		Options
		CanaryList, From string
		Listen           netip.AddrPort
		Examples         bool
		Certify          string
	}{
		f, o, strings.Join(canaries, ", "), strings.Join(from, ", "), netip.AddrPortFrom(listen, f.Hosts[0].Address.Port()),
		o.URL == "" || o.Token == "", command.Self("fleet:certify"),
	})
	return text.String(), err
}
