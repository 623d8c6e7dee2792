package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"ephemeral-builder/harness/bench"
	"ephemeral-builder/harness/bench/connect"
	"ephemeral-builder/harness/bench/plan"
	"ephemeral-builder/harness/lab"
	"ephemeral-builder/image"
	"ephemeral-builder/image/cache"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/units"
)

// BenchOptions says what the benchmark of connections measures.
type BenchOptions struct {
	Kind, Suite string // of the lab
	Parts       []string
	Rounds      int    // with one client; with more of them a fourth, and four connections each
	Compare     string // file with an older result, or empty
}

// BenchParts are what can be measured, in this order: how long connections take, where that time
// goes, what many containers cost, and how long a job takes.
var BenchParts = []string{"connections", "trace", "growth", "job"}

// contenders are those of testdata/contenders, and the ports that their sockets have.
var contenders = []struct {
	connect.Contender
	port    int
	program string // that the lab host has, if they can take part; none for who is installed already
}{
	{connect.Contender{Name: connect.Floor, About: "the image's own sshd in the image's tree, without a container: what none can be faster than"}, 2500, "sh"},
	{connect.Contender{Name: connect.Ours, About: "as installed by default, all protections on"}, 24, ""},
	{connect.Contender{Name: connect.Warm, About: "the same with start = \"warm\": the container waits already"}, 25, ""},
	{connect.Contender{Name: connect.Balanced, About: "the same as the first, behind HAProxy as a fleet has it"}, 2504, "haproxy"},
	{connect.Contender{Name: connect.Chroot, About: "unshare(1) with mounts and processes of its own, chroot and the image's sshd: no users, network, limits or filters"}, 2501, "unshare"},
	{connect.Contender{Name: "docker", About: "docker run --rm of the same tree, with the image's sshd inside"}, 2502, "docker"},
	{connect.Contender{Name: "podman", About: "podman run --rm of the same tree, as root, with the image's sshd inside"}, 2503, "podman"},
}

// clients are the numbers of them that connect at the same time.
var clients = []int{1, 2, 4, 8}

// gitAddress is where the lab host serves the repository that jobs clone.
const gitAddress = "192.0.2.1"

// Bench measures, in a lab of its own, side by side with what others use for the same purpose,
// and shows tables. The results are ResultsDir/bench.json and bench.html.
func Bench(ctx context.Context, rep *progress.Reporter, o BenchOptions) error {
	if o.Rounds < 8 {
		return fmt.Errorf("%d rounds are too few for a median with an interval: ask for at least 8", o.Rounds)
	}
	kind, err := lab.ParseKind(o.Kind)
	if err != nil {
		return err
	}
	var old *connect.Result
	if o.Compare != "" {
		if old, err = connect.Read(o.Compare); err != nil {
			return err
		}
	}
	b := race{o: o, builders: benchBuilders()}
	b.host, err = startHost(ctx, rep, lab.Config{
		Kind: kind, Suite: o.Suite, Cache: filepath.Join(cache.Dir(), "labs"), Dir: filepath.Join(ResultsDir, "bench-lab"), Memory: 12288,
	}, edition{b.builders[connect.Ours], "1"}, edition{b.builders[connect.Warm], "1"})
	if err != nil {
		return err
	}
	defer b.close(context.WithoutCancel(ctx))
	if err := b.prepare(ctx, rep); err != nil {
		return err
	}
	for _, part := range o.Parts {
		var err error
		switch part {
		case "connections":
			err = b.connections(ctx, rep)
		case "trace":
			err = b.trace(ctx, rep)
		case "growth":
			err = b.growth(ctx, rep)
		case "job":
			err = b.job(ctx, rep)
		default:
			err = fmt.Errorf("no such part: use %s", strings.Join(BenchParts, ", "))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
		// After each part: it is long until the last.
		if err := b.result.Write(filepath.Join(ResultsDir, "bench")); err != nil {
			return err
		}
	}
	rep.Note("%s", b.result.Text())
	if old != nil {
		rep.Note("%s", b.result.Compare(old))
	}
	rep.Note("to look at: %s", filepath.Join(ResultsDir, "bench.html"))
	return nil
}

// benchBuilders are the contenders that are ephemeral-builder itself.
func benchBuilders() map[string]spec.Spec {
	s := spec.Default()
	s.Concurrency = 2 * clients[len(clients)-1] // those that end are there for a moment yet
	s.Limits.CPUQuota = 200                     // the others have no such limit
	s.Allow = []string{gitAddress + ":9418"}
	s.SSH.Agent = 2505 // for Balanced
	warm := s
	warm.Name, warm.Start, warm.SSH.Agent = "warm", spec.StartWarm, 0
	warm.SSH.Listen = netip.AddrPortFrom(s.SSH.Listen.Addr(), 25)
	return map[string]spec.Spec{connect.Ours: s, connect.Warm: warm}
}

// race is a host with all contenders.
type race struct {
	*host
	o        BenchOptions
	builders map[string]spec.Spec
	taking   []plan.Contender // part
	result   connect.Result
}

// prepare installs all contenders, and the client.
func (b *race) prepare(ctx context.Context, rep *progress.Reporter) error {
	stage := rep.Stage("install")
	defer stage.Fail() // of no effect after Done
	name := b.builders[connect.Ours].Name
	for _, s := range []spec.Spec{b.builders[connect.Ours], b.builders[connect.Warm]} {
		stage.Detail("%s", s.Name)
		// All with the same keys: sshd answers a client's question for a key after a time that
		// depends on them: see user_specific_delay in its auth2.c.
		keys := fmt.Sprintf("[ %[2]s = %[3]s ] || { mkdir -p %[1]s/%[2]s && cp -a %[1]s/%[3]s/. %[1]s/%[2]s/; }", units.ConfigDir, s.Name, name)
		if _, err := b.output(ctx, keys); err != nil {
			return err
		}
		if err := b.install(ctx, s); err != nil {
			return err
		}
	}
	b.result = connect.Result{Date: time.Now().UTC().Truncate(time.Second), Lab: b.o.Kind + " lab with " + b.o.Suite}
	r := &b.result
	var err error
	if r.Machine, err = bench.ThisMachine(); err != nil {
		return err
	}
	if commit, _, err := image.Commit(ctx, "."); err == nil {
		r.Commit = commit[:min(len(commit), 12)]
	}
	if r.Systemd, err = b.line(ctx, "systemctl --version"); err != nil {
		return err
	}
	if r.OpenSSH, err = b.line(ctx, "dpkg-query --admindir="+units.ContainerDir+"/"+name+"/var/lib/dpkg --show --showformat='openssh-server ${Version}' openssh-server"); err != nil {
		return err
	}
	for _, c := range contenders {
		stage.Detail("%s", c.Name)
		if c.Skipped, err = b.contender(ctx, c.Name, c.program); err != nil {
			return err
		}
		r.Contenders = append(r.Contenders, c.Contender)
		if c.Skipped != "" {
			continue
		}
		keys := name
		if s, ok := b.builders[c.Name]; ok {
			keys = s.Name
		}
		target, identity, err := b.builder(ctx, keys)
		if err != nil {
			return err
		}
		one := plan.Contender{Name: c.Name, Addr: "127.0.0.1:" + strconv.Itoa(c.port), User: target.User,
			Identity: string(identity), HostKey: string(ssh.MarshalAuthorizedKey(target.HostKey))}
		if c.Name == connect.Ours {
			one.Used = units.RunDir + "/" + name + "/used"
		}
		b.taking = append(b.taking, one)
	}
	if err := b.bringDialer(ctx); err != nil {
		return err
	}
	stage.Done("%d contenders", len(b.taking))
	return nil
}

// only are the contenders of these names that take part.
func (b *race) only(names ...string) []plan.Contender {
	return slices.DeleteFunc(slices.Clone(b.taking), func(c plan.Contender) bool { return !slices.Contains(names, c.Name) })
}

// connections measures from the dial to the end of a first command.
func (b *race) connections(ctx context.Context, rep *progress.Reporter) error {
	p := plan.Plan{Contenders: b.taking, Warmup: 2, Command: "true", Timeout: time.Minute, Pause: 150 * time.Millisecond}
	for _, p.Clients = range clients {
		p.Rounds, p.Each = b.o.Rounds, 1
		if p.Clients > 1 {
			p.Rounds, p.Each = max(8, b.o.Rounds/4), 4
		}
		samples, err := b.measure(ctx, rep, fmt.Sprintf("%d clients", p.Clients), p)
		if err != nil {
			return err
		}
		b.result.Series = append(b.result.Series, connect.Series{Clients: p.Clients, Samples: samples})
	}
	return nil
}

// trace finds out where the time of a connection goes.
func (b *race) trace(ctx context.Context, rep *progress.Reporter) error {
	samples, err := b.measure(ctx, rep, "trace", plan.Plan{
		Contenders: b.only(connect.Floor, connect.Ours, connect.Warm),
		Warmup:     2, Rounds: b.o.Rounds, Clients: 1, Each: 1, Command: "true", Timeout: time.Minute, Pause: 500 * time.Millisecond, Trace: true,
	})
	if err != nil {
		return err
	}
	for _, s := range samples {
		t, err := connect.NewTrace(s)
		if err != nil {
			return err
		}
		b.result.Traces = append(b.result.Traces, t)
	}
	return nil
}

// growthLevels are the numbers of containers.
var growthLevels = []int{1, 2, 4, 8, 16, 32, 64, 128, 200, 256}

// growth measures what containers cost with more and more of them.
func (b *race) growth(ctx context.Context, rep *progress.Reporter) error {
	stage := rep.Stage("growth")
	defer stage.Fail() // of no effect after Done
	s := b.builders[connect.Ours]
	if _, err := b.output(ctx, "systemctl stop warm.socket"); err != nil {
		return err
	}
	s.Concurrency = growthLevels[len(growthLevels)-1]
	stage.Detail("making %d slots", s.Concurrency)
	if err := b.install(ctx, s); err != nil {
		return err
	}
	stage.Total(int64(s.Concurrency))
	g := plan.Growth{Contender: b.only(connect.Ours)[0], Levels: growthLevels, Timeout: 2 * time.Minute}
	err := dial(ctx, b.host, "dialer growth", g, func(l plan.Level) {
		b.result.Growth = append(b.result.Growth, l)
		stage.Set(int64(l.Connections))
	})
	if err != nil {
		return err
	}
	stage.Detail("back to %d slots", b.builders[connect.Ours].Concurrency)
	if err := b.install(ctx, b.builders[connect.Ours]); err != nil {
		return err
	}
	if _, err := b.output(ctx, "systemctl start warm.socket"); err != nil {
		return err
	}
	stage.Done("%d containers", s.Concurrency)
	return nil
}

// jobRounds are few, as a job takes half a minute.
const jobRounds = 2

// job measures a job: a clone, and the build of a program.
func (b *race) job(ctx context.Context, rep *progress.Reporter) error {
	if _, err := b.output(ctx, "sh /run/lab/share/contenders/repository "+gitAddress); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join("testdata", "contenders", "job"))
	if err != nil {
		return err
	}
	samples, err := b.measure(ctx, rep, "job", plan.Plan{
		Contenders: b.only(connect.Floor, connect.Ours, "docker", "podman"),
		Rounds:     jobRounds, Clients: 1, Each: 1, Command: string(text), Timeout: 10 * time.Minute, Pause: time.Second,
	})
	if err != nil {
		return err
	}
	b.result.Jobs, err = connect.NewJobs(samples)
	return err
}

// line is the first line that a command prints.
func (h *host) line(ctx context.Context, command string) (string, error) {
	out, err := h.output(ctx, command)
	first, _, _ := strings.Cut(out, "\n")
	return strings.TrimSpace(first), err
}

// contender makes one listen, or says why it can't.
func (h *host) contender(ctx context.Context, name, program string) (skipped string, err error) {
	if program == "" {
		return "", nil
	}
	if _, err := h.output(ctx, "command -v "+program); err != nil {
		return program + " is not installed on the lab host", ctx.Err()
	}
	_, err = h.output(ctx, "sh /run/lab/share/contenders/install "+name)
	return "", err
}

// bringDialer compiles the client, and puts it on the lab host.
func (h *host) bringDialer(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "dialer-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "dialer")
	if err := command.Run(ctx, command.Cmd{Args: []string{"go", "build", "-trimpath", "-o", path, "./harness/bench/dialer"}, Env: []string{"CGO_ENABLED=0"}}); err != nil {
		return err
	}
	program, err := os.Open(path)
	if err != nil {
		return err
	}
	defer program.Close()
	var said bytes.Buffer
	if err := h.run(ctx, "cat >/usr/local/bin/dialer && chmod +x /usr/local/bin/dialer", program, &said, &said); err != nil {
		return fmt.Errorf("copying the dialer to the lab host: %w\n%s", err, said.String())
	}
	return nil
}

// measure has the dialer carry out a plan.
func (h *host) measure(ctx context.Context, rep *progress.Reporter, name string, p plan.Plan) ([]plan.Sample, error) {
	stage := rep.Stage(name)
	defer stage.Fail() // of no effect after Done
	total := p.Rounds * p.Clients * p.Each * len(p.Contenders)
	stage.Total(int64(total))
	var samples []plan.Sample
	err := dial(ctx, h, "dialer", p, func(s plan.Sample) {
		samples = append(samples, s)
		stage.Set(int64(len(samples)))
	})
	if err != nil {
		return nil, err
	}
	if len(samples) != total {
		return nil, fmt.Errorf("the dialer measured %d connections of %d", len(samples), total)
	}
	stage.Done("%d connections", total)
	return samples, nil
}

// dial has the dialer on the lab host do what it is given, and hands on what it finds.
func dial[T any](ctx context.Context, h *host, command string, what any, found func(T)) error {
	text, err := json.Marshal(what)
	if err != nil {
		return err
	}
	read, write := io.Pipe()
	var stderr bytes.Buffer
	ran := make(chan error, 1)
	go func() {
		err := h.run(ctx, command, bytes.NewReader(text), write, &stderr)
		write.Close()
		ran <- err
	}()
	decoder := json.NewDecoder(bufio.NewReader(read))
	for {
		var one T
		err := decoder.Decode(&one)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			read.CloseWithError(err)
			return errors.Join(<-ran, fmt.Errorf("reading what the dialer prints: %w", err))
		}
		found(one)
	}
	if err := <-ran; err != nil {
		return fmt.Errorf("the dialer on the lab host: %w\n%s", err, stderr.String())
	}
	return nil
}
