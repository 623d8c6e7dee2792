package fleet

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"ephemeral-builder/units"
	"ephemeral-builder/units/runner"
	"ephemeral-builder/units/status"
)

var update = flag.Bool("update", false, "rewrite testdata")

func example(t *testing.T) Fleet {
	t.Helper()
	f, err := Load("testdata/fleet.toml")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestParse(t *testing.T) {
	good, err := os.ReadFile("testdata/fleet.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, old, new, want string }{
		{"a host twice", `"beta"`, `"alpha"`, "f.toml: hosts: alpha is listed twice: remove one"},
		{"an address twice", "10.0.0.12", "10.0.0.11", "f.toml: hosts: beta has the address of another host, 10.0.0.11:24: remove one"},
		{"the balancer's address", "10.0.0.12", "10.0.0.5", "f.toml: hosts: beta has the address of the balancer, 10.0.0.5:24: let one of them listen on another port"},
		{"no slots", "slots = 16\n", "", "f.toml: hosts: beta has 0 slots: use concurrency of its spec, 1 to 1000"},
		{"no address", "address = \"10.0.0.12:24\"\n", "", `f.toml: hosts: beta has no address: name where it listens, as in address = "10.0.0.11:24"`},
		{"unknown key", "slots = 16", "slot = 16", `f.toml:13: unknown key "hosts.slot": use name, address, slots, canary, ssh`},
		{"unknown key of the balancer", "[[hosts]]", "wait = \"1h\"\n[[hosts]]", `f.toml:4: unknown key "balancer.wait": use listen, stats, address, ssh, queue, lifetime`},
		{"another type", "slots = 16", "slots = '16'", "f.toml:13: "},
		{"an option for ssh", "admin@beta.example.com", "-oProxyCommand=x", `f.toml: hosts: beta has ssh "-oProxyCommand=x": use USER@HOST or a name from ~/.ssh/config`},
		{"a name for HAProxy", `"beta"`, `"beta check"`, `f.toml: hosts: name "beta check": use lower-case letters, digits, dots and hyphens`},
		{"nowhere", "listen = \"10.0.0.5:24\"\n", "", `f.toml: balancer.listen is missing: where are runners to connect to? as in listen = "10.0.0.5:24"`},
		{"everywhere", "10.0.0.5:24", "0.0.0.0:24", "f.toml: balancer.address is missing, as balancer.listen is all addresses: what do runners call it?"},
		{"statistics on the same port", "[[hosts]]", "stats = \"10.0.0.5:24\"\n[[hosts]]", "f.toml: balancer.stats is 10.0.0.5:24, where runners connect to: use another port"},
		{"no statistics", "[[hosts]]", "stats = \"\"\n[[hosts]]", `f.toml: balancer.stats is no address and port, as in stats = "127.0.0.1:8404"`},
		{"a port in a name", "[[hosts]]", "address = \"lb.example.com:24\"\n[[hosts]]", `f.toml: balancer.address "lb.example.com:24": use a DNS name or an address, without a port`},
		{"a zone, and with it a line of HAProxy's", "10.0.0.12:24", `[fe80::1%x\n\tserver evil 10.0.0.66:24 #]:24`, "f.toml: hosts: beta has the address [fe80::1%x\n\tserver evil 10.0.0.66:24 #]:24: use one without a zone"},
		{"IPv4 as IPv6", "10.0.0.5:24", "[::ffff:10.0.0.5]:24", "f.toml: balancer.listen is on ::ffff:10.0.0.5: use an address without a zone, and IPv4 as such"},
		{"no time", "[[hosts]]", "queue = \"0s\"\n[[hosts]]", "f.toml:4: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := strings.Replace(string(good), test.old, test.new, 1)
			if _, err := Parse("f.toml", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	if _, err := Parse("f.toml", nil); err == nil || !strings.Contains(err.Error(), "there are no [[hosts]]") {
		t.Errorf("got %v for an empty file", err)
	}
	if _, err := Load("testdata/none.toml"); err == nil || !strings.Contains(err.Error(), "as the README has it") {
		t.Errorf("got %v for no file", err)
	}
}

func TestHAProxy(t *testing.T) {
	text, err := example(t).HAProxy()
	if err != nil {
		t.Fatal(err)
	}
	golden := "testdata/haproxy.cfg"
	if *update {
		if err := os.WriteFile(golden, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(golden); err != nil || !bytes.Equal(text, want) {
		t.Errorf("%v, it is\n%s", err, text)
	}
}

// HAProxy itself accepts what is written, and of what it does not nothing stays.
func TestVerifyHAProxy(t *testing.T) {
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Skip("needs haproxy: apt-get install haproxy")
	}
	text, err := example(t).HAProxy()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), haproxyFile)
	check := func(path string) error { return verifyHAProxy(t.Context(), path) }
	if err := writeChecked(path, text, check); err != nil {
		t.Error(err)
	}
	if err := writeChecked(path, append(text, "\nnonsense\n"...), check); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("got %v for nonsense", err)
	}
	if now, _ := os.ReadFile(path); !bytes.Equal(now, text) {
		t.Errorf("the file is\n%s", now)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) != 1 {
		t.Errorf("left: %q", left)
	}
}

// Both shapes of the runner's configuration are what its own reader takes.
func TestConfig(t *testing.T) {
	f := example(t)
	for name, test := range map[string]struct {
		sections []runner.Section
		want     string // name, limit and host of each
	}{
		"balanced": {[]runner.Section{f.balanced()}, "ephemeral-builder 24 10.0.0.5; "},
		"single":   {f.single(), "ephemeral-builder-alpha 8 10.0.0.11; ephemeral-builder-beta 16 10.0.0.12; "},
	} {
		var c runner.Config
		if err := toml.Unmarshal(f.config(exampleURL, exampleToken, test.sections...), &c); err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for _, r := range c.Runners {
			got.WriteString(strings.Join([]string{r.Name, fmt.Sprint(r.Limit), r.SSH.Host}, " ") + "; ")
			if r.SSH.AnyHostKey || r.SSH.KnownHosts != "/etc/gitlab-runner/known_hosts" {
				t.Errorf("%s takes any host key, or knows none: %+v", r.Name, r.SSH)
			}
		}
		if got.String() != test.want || c.Concurrent != 24 {
			t.Errorf("%s: concurrent %d, %s, want %s", name, c.Concurrent, &got, test.want)
		}
	}
}

// Names that anybody can choose do not end the file early.
func TestInstance(t *testing.T) {
	f := example(t)
	f.Hosts[1].Name = "beta.example.com"
	text, err := f.instance(`https://x"y/`, "glrt-\\")
	var c struct {
		Runners []struct {
			URL, Token string
			Limit      int
			Autoscaler struct {
				Capacity int `toml:"capacity_per_instance"`
				Config   struct {
					Instances map[string]map[string]string
				} `toml:"plugin_config"`
			}
		}
	}
	if err := errors.Join(err, toml.Unmarshal(text, &c)); err != nil {
		t.Fatal(err)
	}
	r := c.Runners[0]
	if r.URL != `https://x"y/` || r.Token != "glrt-\\" || r.Limit != 24 || r.Autoscaler.Capacity != 8 || r.Autoscaler.Config.Instances["beta.example.com"]["external_addr"] != "10.0.0.12:24" {
		t.Errorf("it is\n%s", text)
	}
}

// A client that knows the authority takes a host by its own address and behind the balancer, and
// nobody else who has a key of the same authority.
func TestCertificates(t *testing.T) {
	f := example(t)
	dir := t.TempDir()
	if _, err := readKey(filepath.Join(dir, authorityFile)); err == nil || !strings.Contains(err.Error(), "-out") {
		t.Errorf("got %v for no authority", err)
	}
	authority, err := ensureKey(filepath.Join(dir, authorityFile), "hosts")
	if err != nil {
		t.Fatal(err)
	}
	again, err := ensureKey(filepath.Join(dir, authorityFile), "hosts")
	if err != nil || !bytes.Equal(again.PublicKey().Marshal(), authority.PublicKey().Marshal()) {
		t.Fatalf("the second time the authority is another: %v", err)
	}
	known := filepath.Join(dir, knownFile)
	if err := os.WriteFile(known, f.authorityLine(authority.PublicKey()), 0o644); err != nil {
		t.Fatal(err)
	}
	check, err := knownhosts.New(known)
	if err != nil {
		t.Fatal(err)
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	got := facts{Builder: status.Builder{Listen: "0.0.0.0:24"}, hostKey: host.PublicKey()}
	certificate, err := f.certify(authority, f.Hosts[0], got, now)
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{"10.0.0.5:24": true, "10.0.0.11:24": true, "10.0.0.12:24": false, "10.0.0.99:24": false} {
		remote := net.TCPAddrFromAddrPort(f.Hosts[0].Address)
		if err := check(address, remote, certificate); (err == nil) != want {
			t.Errorf("alpha at %s: %v", address, err)
		}
	}
	// On the host itself, too.
	if err := os.WriteFile(known, units.KnownHosts(got.local(), host.PublicKey(), certificate), 0o644); err != nil {
		t.Fatal(err)
	}
	if check, err = knownhosts.New(known); err != nil {
		t.Fatal(err)
	}
	for _, key := range []ssh.PublicKey{certificate, host.PublicKey()} {
		if err := check("127.0.0.1:24", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 24}, key); err != nil {
			t.Errorf("it does not know itself by %s: %v", key.Type(), err)
		}
	}
	got.certificate = certificate
	for name, test := range map[string]struct {
		host Host
		now  time.Time
		want bool
	}{
		"fresh":            {f.Hosts[0], now, true},
		"in its last half": {f.Hosts[0], now.Add(validity/2 + time.Hour), false},
		"of another host":  {f.Hosts[1], now, false},
		"not yet":          {f.Hosts[0], now.Add(-2 * time.Hour), false},
	} {
		if got := f.current(authority, test.host, got, test.now); got != test.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
	if err := os.Chmod(filepath.Join(dir, authorityFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ensureKey(filepath.Join(dir, authorityFile), "hosts"); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v for an authority that all can read", err)
	}
}

func TestDiffers(t *testing.T) {
	f := example(t)
	as := func(change func(*status.Builder)) facts {
		b := status.Builder{Slots: 8, Agent: 8024, Listen: "0.0.0.0:24", Active: true}
		change(&b)
		return facts{Builder: b}
	}
	for _, test := range []struct {
		got  facts
		want string
	}{
		{as(func(*status.Builder) {}), ""},
		{as(func(b *status.Builder) { b.Active, b.Slots = false, 0 }), "alpha does not listen, as ephemeral-builder.socket is not active"},
		{as(func(b *status.Builder) { b.Slots = 4 }), "alpha has 4 slots, and the fleet's file says 8"},
		{as(func(b *status.Builder) { b.Agent = 0 }), "alpha has its agent on port 0"},
		{as(func(b *status.Builder) { b.Listen = "127.0.0.1:24" }), "alpha listens on 127.0.0.1:24, where 10.0.0.11:24 does not lead"},
		{as(func(b *status.Builder) { b.Listen = "10.0.0.11:2400" }), "alpha listens on 10.0.0.11:2400"},
	} {
		err := f.differs(f.Hosts[0], test.got)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), test.want)) {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
}

func TestStatus(t *testing.T) {
	f := example(t)
	csv := "# pxname,svname,qcur,scur,status,check_status,\n" +
		"ephemeral-builder,FRONTEND,,9,OPEN,,\n" +
		"ephemeral-builder-hosts,alpha,0,8,UP,L4OK,\n" +
		"ephemeral-builder-hosts,beta,0,0,DOWN,L4CON,\n" +
		"ephemeral-builder-hosts,BACKEND,1,9,UP,,\n"
	views, queued, err := readStats(strings.NewReader(csv), "ephemeral-builder-hosts")
	if err != nil {
		t.Fatal(err)
	}
	alpha := facts{Builder: status.Builder{
		Version: "2", Slots: 8, Free: 7, Agent: 8024, Listen: "0.0.0.0:24", Active: true, Updates: "failed",
		Containers: []status.Container{{Version: "1"}},
	}}
	s := Status{Queued: queued, Rows: []Row{f.row(f.Hosts[0], alpha, views), f.row(f.Hosts[1], facts{err: os.ErrDeadlineExceeded}, views)}}
	const want = `HOST   STATE    VERSION  JOBS  FREE  SLOTS  BALANCER         NOTE
alpha  ready    2        1     7     8      UP, 8            its last update failed: journalctl -u ephemeral-builder-update
beta   unknown  -        -     -     16     DOWN (L4CON), 0  i/o timeout
1 jobs in 24 slots, 1 wait
`
	var got strings.Builder
	if err := s.Print(&got, false); err != nil || got.String() != want {
		t.Errorf("%v, it is\n%swant\n%s", err, &got, want)
	}
	for note, change := range map[string]func(*facts){
		"": func(got *facts) { got.Images = []status.Image{{Version: "2", Current: true, Refused: true}} },
		"version 4 does not serve there: publish a later one": func(got *facts) {
			got.Images = []status.Image{{Version: "1", Refused: true}, {Version: "2", Current: true, Refused: true}, {Version: "3", Refused: true}, {Version: "4", Refused: true}}
		},
		"its certificate ends on ": func(got *facts) {
			got.certificate = &ssh.Certificate{Key: got.hostKey, ValidBefore: uint64(time.Now().Add(24 * time.Hour).Unix())}
		},
		"its certificate begins on ": func(got *facts) {
			got.certificate = &ssh.Certificate{Key: got.hostKey, ValidAfter: uint64(time.Now().Add(2 * time.Hour).Unix()), ValidBefore: ssh.CertTimeInfinity}
		},
	} {
		got := alpha
		got.Updates = "on"
		key, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got.hostKey, err = ssh.NewPublicKey(key); err != nil {
			t.Fatal(err)
		}
		change(&got)
		if row := f.row(f.Hosts[0], got, views); !strings.HasPrefix(row.Note, note) || (row.Note == "") != (note == "") {
			t.Errorf("the note is %q, want %q", row.Note, note)
		}
	}
	if _, _, err := readStats(strings.NewReader(""), "x"); err == nil || !strings.Contains(err.Error(), "says nothing") {
		t.Errorf("got %v for silence", err)
	}
	if _, _, err := readStats(strings.NewReader("<html>"), "x"); err == nil || !strings.Contains(err.Error(), "is it HAProxy") {
		t.Errorf("got %v for a page", err)
	}
}
