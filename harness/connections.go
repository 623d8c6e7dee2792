package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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

// ConnectionsOptions says what the benchmark of connections measures.
type ConnectionsOptions struct {
	Kind, Suite string // of the lab
	Rounds      int    // with one client; with more of them a fourth, and four connections each
	Compare     string // file with an older result, or empty
}

// contenders are those of testdata/contenders, and the ports that their sockets have.
var contenders = []struct {
	connect.Contender
	port    int
	program string // that the lab host has, if they can take part; none for who is installed already
}{
	{connect.Contender{Name: connect.Floor, About: "the image's own sshd in the image's tree, without a container: what none can be faster than"}, 2500, "sh"},
	{connect.Contender{Name: connect.Ours, About: "as installed by default, all protections on"}, 24, ""},
	{connect.Contender{Name: connect.Chroot, About: "unshare(1) with mounts and processes of its own, chroot and the image's sshd: no users, network, limits or filters"}, 2501, "unshare"},
	{connect.Contender{Name: "docker", About: "docker run --rm of the same tree, with the image's sshd inside"}, 2502, "docker"},
	{connect.Contender{Name: "podman", About: "podman run --rm of the same tree, as root, with the image's sshd inside"}, 2503, "podman"},
}

// clients are the numbers of them that connect at the same time.
var clients = []int{1, 2, 4, 8}

// BenchConnections measures, in a lab of its own, how long it takes from the dial to the end of
// a first command, side by side with what others use for the same purpose, and shows a table.
// The results are ResultsDir/bench.json and bench.html.
func BenchConnections(ctx context.Context, rep *progress.Reporter, o ConnectionsOptions) error {
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
	s := spec.Default()
	s.Concurrency = 2 * clients[len(clients)-1] // those that end are there for a moment yet
	h, err := startHost(ctx, rep, lab.Config{
		Kind: kind, Suite: o.Suite, Cache: filepath.Join(cache.Dir(), "labs"), Dir: filepath.Join(ResultsDir, "bench-lab"), Memory: 8192,
	}, edition{s, "1"})
	if err != nil {
		return err
	}
	defer h.close(context.WithoutCancel(ctx))
	r, err := h.race(ctx, rep, s, o)
	if err != nil {
		return err
	}
	if err := r.Write(filepath.Join(ResultsDir, "bench")); err != nil {
		return err
	}
	rep.Note("%s", r.Text())
	if old != nil {
		rep.Note("%s", r.Compare(old))
	}
	rep.Note("to look at: %s", filepath.Join(ResultsDir, "bench.html"))
	return nil
}

// race installs all contenders and measures them.
func (h *host) race(ctx context.Context, rep *progress.Reporter, s spec.Spec, o ConnectionsOptions) (*connect.Result, error) {
	stage := rep.Stage("install")
	defer stage.Fail() // of no effect after Done
	if err := h.install(ctx, s); err != nil {
		return nil, err
	}
	r := &connect.Result{Date: time.Now().UTC().Truncate(time.Second), Lab: o.Kind + " lab with " + o.Suite}
	var err error
	if r.Machine, err = bench.ThisMachine(); err != nil {
		return nil, err
	}
	if commit, _, err := image.Commit(ctx, "."); err == nil {
		r.Commit = commit[:min(len(commit), 12)]
	}
	if r.Systemd, err = h.line(ctx, "systemctl --version"); err != nil {
		return nil, err
	}
	if r.OpenSSH, err = h.line(ctx, "dpkg-query --admindir="+units.ContainerDir+"/"+s.Name+"/var/lib/dpkg --show --showformat='openssh-server ${Version}' openssh-server"); err != nil {
		return nil, err
	}
	target, identity, err := h.builder(ctx, s.Name)
	if err != nil {
		return nil, err
	}
	p := plan.Plan{Warmup: 2, Command: "true", Timeout: time.Minute, Pause: 150 * time.Millisecond}
	for _, c := range contenders {
		stage.Detail("%s", c.Name)
		if c.Skipped, err = h.contender(ctx, c.Name, c.program); err != nil {
			return nil, err
		}
		r.Contenders = append(r.Contenders, c.Contender)
		if c.Skipped != "" {
			continue
		}
		one := plan.Contender{Name: c.Name, Addr: "127.0.0.1:" + strconv.Itoa(c.port), User: target.User,
			Identity: string(identity), HostKey: string(ssh.MarshalAuthorizedKey(target.HostKey))}
		if c.Name == connect.Ours {
			one.Used = units.RunDir + "/" + s.Name + "/used"
		}
		p.Contenders = append(p.Contenders, one)
	}
	if err := h.bringDialer(ctx); err != nil {
		return nil, err
	}
	stage.Done("%d contenders", len(p.Contenders))
	for _, p.Clients = range clients {
		p.Rounds, p.Each = o.Rounds, 1
		if p.Clients > 1 {
			p.Rounds, p.Each = max(8, o.Rounds/4), 4
		}
		samples, err := h.measure(ctx, rep, p)
		if err != nil {
			return nil, err
		}
		r.Series = append(r.Series, connect.Series{Clients: p.Clients, Samples: samples})
	}
	return r, nil
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
func (h *host) measure(ctx context.Context, rep *progress.Reporter, p plan.Plan) ([]plan.Sample, error) {
	stage := rep.Stage(fmt.Sprintf("%d clients", p.Clients))
	defer stage.Fail() // of no effect after Done
	total := p.Rounds * p.Clients * p.Each * len(p.Contenders)
	stage.Total(int64(total))
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	read, write := io.Pipe()
	var stderr bytes.Buffer
	ran := make(chan error, 1)
	go func() {
		err := h.run(ctx, "dialer", bytes.NewReader(text), write, &stderr)
		write.Close()
		ran <- err
	}()
	var samples []plan.Sample
	decoder := json.NewDecoder(bufio.NewReader(read))
	for {
		var s plan.Sample
		err := decoder.Decode(&s)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			read.CloseWithError(err)
			return nil, errors.Join(<-ran, fmt.Errorf("reading what the dialer prints: %w", err))
		}
		samples = append(samples, s)
		stage.Set(int64(len(samples)))
	}
	if err := <-ran; err != nil {
		return nil, fmt.Errorf("the dialer on the lab host: %w\n%s", err, stderr.String())
	}
	if len(samples) != total {
		return nil, fmt.Errorf("the dialer measured %d connections of %d", len(samples), total)
	}
	stage.Done("%d connections", total)
	return samples, nil
}
