package harness

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ephemeral-builder/harness/lab"
	"ephemeral-builder/harness/script"
	"ephemeral-builder/harness/sshclient"
	"ephemeral-builder/image/cache"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/spec"
)

var (
	labKind  = flag.String("lab.kind", "", "run the scripts of testdata on a lab of this kind: vm, container or fleet")
	labSuite = flag.String("lab.suite", "trixie", "Debian suite of the lab host")
	labUnits = flag.String("lab.units", "", "attack the units in this folder of testdata, in place of ours")
	labOwner = flag.Int("lab.owner", 0, "end the lab when this process does")
)

// TestScripts runs those scripts of testdata that are for a kind of lab, one after the other on
// one lab. After each it judges the host's health, and if the script failed it keeps the evidence.
func TestScripts(t *testing.T) {
	if *labKind == "" {
		t.Skip("needs a lab: go tool mage test")
	}
	kind, err := hostKind(*labKind)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("..")
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	t.Cleanup(stop)
	if *labOwner != 0 {
		if err := stopWith(*labOwner, stop); err != nil {
			t.Fatal(err)
		}
	}
	o := TestOptions{Kind: *labKind, Suite: *labSuite, Units: *labUnits}
	rep := progress.New(os.Stdout)
	dir, err := filepath.Abs(filepath.Join(results(o), "lab"))
	if err != nil {
		t.Fatal(err)
	}
	editions, err := testEditions()
	if err != nil {
		t.Fatal(err)
	}
	cfg := lab.Config{Kind: kind, Suite: o.Suite, Cache: filepath.Join(cache.Dir(), "labs"), Dir: dir}
	start := func() (*host, error) {
		h, err := startHost(ctx, rep, cfg, editions...)
		if err != nil {
			return nil, err
		}
		if _, err := h.output(ctx, "ephemeral-builder install -spec=lab.toml"+takeOver(o.Units)); err != nil {
			return nil, errors.Join(err, h.close(context.WithoutCancel(ctx)))
		}
		return h, nil
	}
	var h *host  // on which the verb host runs
	var f *fleet // that h is of, or nil
	var labs interface {
		builder(ctx context.Context, name string) (sshclient.Target, []byte, error)
		close(ctx context.Context) error
	}
	if o.Kind == fleetKind {
		if f, err = startTestFleet(ctx, rep, cfg, editions); err != nil {
			t.Fatal(err)
		}
		h, labs = f.balancer, f
	} else {
		if h, err = start(); err != nil {
			t.Fatal(err)
		}
		labs = h
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := labs.close(ctx); err != nil {
			t.Error(err)
		}
	})
	// Without its lab every script fails at once.
	context.AfterFunc(ctx, func() { _ = labs.close(context.WithoutCancel(ctx)) })
	target, _, err := labs.builder(ctx, spec.Default().Name)
	if err != nil {
		t.Fatal(err)
	}
	controllers, err := h.output(ctx, "cat /sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		t.Fatal(err)
	}
	limits := true
	for _, controller := range []string{"cpu", "memory", "pids"} {
		limits = limits && slices.Contains(strings.Fields(controllers), controller)
	}
	if kind == lab.VM && !limits {
		t.Fatalf("a vm lab must have resource controllers, this one has %q", controllers)
	}
	env := &script.Env{
		Builder: target,
		Host:    h.run,
		Scale:   1,
		Conditions: map[string]bool{
			"kind:" + *labKind:   true,
			"suite:" + *labSuite: true,
			"cgroup":             limits,
			"units:tutorial":     o.Units == "tutorial",
			"gitlab-runner":      realRunner() != "",
		},
		Vars:      map[string]string{"ESC": "\x1b", "BEL": "\a"},
		Neighbour: record(filepath.Join(results(o), neighboursFile)),
	}
	if f == nil {
		env.Restart = h.restart
	} else {
		env.Hosts, env.Halt = map[string]script.Shell{}, f.halt
		for name, h := range f.hosts {
			env.Hosts[name] = h.run
		}
	}
	if h.lab.Describe().Accel == lab.TCG {
		env.Scale = 4
	}
	// again takes a new host after an attack that the last one did not survive.
	again := func() error {
		if err := h.close(ctx); err != nil {
			return err
		}
		fresh, err := start()
		if err != nil {
			return err
		}
		*h = *fresh
		env.Builder, _, err = h.builder(ctx, spec.Default().Name)
		return err
	}
	ran := 0
	t.Cleanup(func() {
		if ran == 0 && !t.Failed() {
			t.Error("no script ran")
		}
	})
	files, err := scriptFiles(o.Kind)
	if err != nil {
		t.Fatal(err)
	}
	params := testscript.Params{
		Files:               files,
		Cmds:                script.Commands(env),
		Condition:           script.Condition(env),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			name := strings.TrimPrefix(filepath.Base(e.WorkDir), "script-")
			w := watch{fleet: f, o: o, name: name, t: e.T()}
			if f == nil {
				w.hosts = []*watched{{host: h}}
			} else {
				for _, h := range f.all() {
					w.hosts = append(w.hosts, &watched{host: h})
				}
			}
			// Runs after script's own clean-up, which is deferred later.
			e.Defer(func() {
				w.end(ctx)
				if skipped := e.T().(interface{ Skipped() bool }).Skipped(); !skipped {
					ran++
				}
			})
			err := w.begin(ctx)
			if err != nil && o.Units != "" && ctx.Err() == nil {
				t.Logf("a new host, as this one does not come to order: %v", err)
				if err = again(); err == nil {
					err = w.begin(ctx)
				}
			}
			if err != nil {
				return err
			}
			return script.Setup(env)(e)
		},
	}
	t.Run("scripts", func(t *testing.T) {
		if o.Units == "" {
			testscript.Run(t, params)
			return
		}
		params.Dir = "testdata"
		params.Deadline, _ = t.Deadline()
		attacks, err := runAttacks(ctx, t, params)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(results(o), attacksFile), []byte(attackTable(o, attacks)), 0o644); err != nil {
			t.Fatal(err)
		}
	})
}

// startTestFleet starts a fleet with a builder on each host.
func startTestFleet(ctx context.Context, rep *progress.Reporter, cfg lab.Config, editions []edition) (*fleet, error) {
	f, err := startFleet(ctx, rep, cfg, editions...)
	if err != nil {
		return nil, err
	}
	err = f.each(ctx, func(ctx context.Context, h *host) error {
		_, err := h.output(ctx, "ephemeral-builder install -spec=lab.toml")
		return err
	})
	if err == nil {
		err = f.keep(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, f.close(context.WithoutCancel(ctx)))
	}
	return f, nil
}

// scriptFiles are those for a kind of lab: fleet-* for a fleet, and all others for one host.
func scriptFiles(kind string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.txtar"))
	return slices.DeleteFunc(files, func(file string) bool {
		return strings.HasPrefix(filepath.Base(file), "fleet-") != (kind == fleetKind)
	}), err
}

// neighboursFile has a line for each time that a script used neighbour: SCRIPT, WHEN and SECONDS.
const neighboursFile = "neighbours.tsv"

func record(path string) func(script, when string, took time.Duration) {
	return func(script, when string, took time.Duration) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return // what it is for is the look of it
		}
		defer f.Close()
		fmt.Fprintf(f, "%s\t%s\t%.2f\n", script, when, took.Seconds())
	}
}

// takeOver is what follows the install on a host on which other units are to be tried.
func takeOver(units string) string {
	if units == "" {
		return ""
	}
	return " && ln -sf /run/lab/share/ephemeral-builder /usr/local/bin/ephemeral-builder-real" +
		" && ln -sf /run/lab/share/" + units + "/install /usr/local/bin/ephemeral-builder && ephemeral-builder install"
}

// stopWith calls stop when the process pid ends. The harness is killed with what started
// it only as far as go test, not the test itself.
func stopWith(pid int, stop func()) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("watching the process %d: %w", pid, err)
	}
	go func() {
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if err != unix.EINTR {
				break
			}
		}
		stop()
	}()
	return nil
}

// watch judges the hosts before and after one script.
type watch struct {
	fleet *fleet // whose hosts they are, or nil
	hosts []*watched
	o     TestOptions
	name  string
	t     testscript.T
}

// watched is a host, and what is known of it from before the script.
type watched struct {
	*host
	since string // journal cursor
	boots int    // of the lab up to now
}

// bounded is ctx with an end for what waits for a host that an attack may have brought down.
func (w *watch) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if w.o.Units == "" {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, 3*time.Minute)
}

// clean takes from the host what is left of an attack.
const clean = `
systemctl stop ephemeral-builder.socket 'ephemeral-builder@*.service'
while machines=$(machinectl list --no-legend | cut -d ' ' -f 1) && [ -n "$machines" ]; do
	machinectl terminate $machines 2>/dev/null
	sleep 0.1
done
findmnt -rno TARGET | grep nspawn/unix-export | xargs -r umount
rm -rf /run/systemd/system/ephemeral-builder*.d
systemctl daemon-reload
`

// begin brings the hosts to the state that every script starts from.
func (w *watch) begin(ctx context.Context) error {
	ctx, cancel := w.bounded(ctx)
	defer cancel()
	if w.fleet != nil {
		if err := w.fleet.restore(ctx); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, h := range w.hosts {
		group.Go(func() error { return w.beginOn(ctx, h) })
	}
	return group.Wait()
}

func (w *watch) beginOn(ctx context.Context, h *watched) error {
	if err := h.reconnect(ctx); err != nil {
		return err
	}
	command := `ls /run/systemd/transient 2>/dev/null | grep '[.]service$' | xargs -r systemctl stop
systemctl reset-failed; [ ! -e /sys/class/net/lab-out ] || stand-ins down
[ ! -e /var/lib/container/lab-gitlab ] || gitlab down
[ ! -e /run/systemd/system/ephemeral-builder@.service.d ] || { rm -r /run/systemd/system/ephemeral-builder@.service.d; systemctl daemon-reload; }
[ -e /usr/local/bin/ephemeral-builder ] || ln -s /run/lab/share/ephemeral-builder /usr/local/bin/
said=$(ephemeral-builder install -spec=lab.toml -autoUpdate=false 2>&1) || { echo "$said" >&2; exit 1; }
rm -rf small two enough failed served-* /etc/ephemeral-builder/ephemeral-builder/drained /var/lib/container/ephemeral-builder_0.sudo* /var/lib/container/ephemeral-builder_[2-9]* && journalctl -q -n 0 --show-cursor`
	switch {
	case w.o.Units != "":
		command = clean + command
	case h.name == balancerName:
		command = "systemctl stop haproxy 'fleet-*'; systemctl reset-failed; journalctl -q -n 0 --show-cursor"
	}
	out, err := h.output(ctx, command)
	h.since = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(out), "-- cursor: "))
	if err == nil {
		h.boots, err = h.lab.Boots()
	}
	return err
}

// down tells whether the host has ended since begin, or started again.
func (h *watched) down() bool {
	select {
	case <-h.lab.Done():
		return true
	default:
		boots, err := h.lab.Boots()
		return err == nil && boots > h.boots
	}
}

// healthy is what must hold on the host when no client is connected.
const healthy = `
systemctl list-units --all --no-legend --plain 'ephemeral-builder@*'
machinectl list --no-legend
findmnt -rno TARGET | grep nspawn/unix-export
systemctl is-active ephemeral-builder.socket | grep -v '^active$'
true`

// end fails the script if it left a host in bad health, and keeps evidence of failure.
func (w *watch) end(ctx context.Context) {
	ctx, cancel := w.bounded(ctx)
	defer cancel()
	var troubles []string
	for _, h := range w.hosts {
		trouble := w.judge(ctx, h)
		if trouble != "" && h.name != "" {
			trouble = h.name + ": " + trouble
		}
		if trouble != "" {
			troubles = append(troubles, trouble)
		}
	}
	failed := w.t.(interface{ Failed() bool }).Failed()
	if len(troubles) == 0 && !failed {
		return
	}
	where, err := w.evidence(ctx)
	w.t.Log("evidence is in", where, errors.Join(err))
	if len(troubles) > 0 && !failed {
		w.t.Log(leftover + strings.Join(troubles, "\n"))
		w.t.FailNow()
	}
}

// judge says what ails a host, if anything does.
func (w *watch) judge(ctx context.Context, h *watched) (trouble string) {
	if h.halted || h.name == balancerName {
		return ""
	}
	check := healthy
	if w.o.Units == "" { // of other units a failed one is no harm
		check = "systemctl --failed --no-legend --plain" + healthy
	}
	deadline := time.Now().Add(time.Minute)
	for {
		out, err := h.output(ctx, check)
		if err != nil {
			trouble = err.Error()
			break
		}
		if trouble = strings.TrimSpace(out); trouble == "" {
			break
		}
		if time.Now().After(deadline) {
			break
		}
	}
	if w.o.Units != "" && (h.down() || h.reconnect(ctx) != nil) {
		trouble = hostDown
		w.t.Log(hostDown)
	}
	return trouble
}

// evidence saves what explains a failure.
func (w *watch) evidence(ctx context.Context) (dir string, err error) {
	dir = filepath.Join(results(w.o), w.name)
	var errs []error
	for _, h := range w.hosts {
		errs = append(errs, h.evidence(ctx, filepath.Join(dir, h.name)))
	}
	unitsFlag := ""
	if w.o.Units != "" {
		unitsFlag = " -units=" + w.o.Units
	}
	rerun := fmt.Sprintf("#!/bin/sh\n# In the project's root:\ngo tool mage test -kind=%s -suite=%s%s -run='^%s$'\n", w.o.Kind, w.o.Suite, unitsFlag, w.name)
	errs = append(errs, os.WriteFile(filepath.Join(dir, "rerun.sh"), []byte(rerun), 0o755))
	return dir, errors.Join(errs...)
}

// evidence saves what one host has to say, in dir; one that was halted only what it said before.
func (h *watched) evidence(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	left := h.lab.Describe().Dir
	errs := []error{copyFile(filepath.Join(left, lab.ConsoleLog), filepath.Join(dir, "console.log"))}
	if h.halted {
		return errors.Join(append(errs, copyFile(filepath.Join(left, lab.JournalLog), filepath.Join(dir, lab.JournalLog)))...)
	}
	if err := h.reconnect(ctx); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for name, command := range map[string]string{
		"journal.txt": fmt.Sprintf("journalctl -q --no-pager -o short-precise --after-cursor='%s'", h.since),
		"units.txt":   "systemctl --no-pager --full --all status 'ephemeral-builder*' 'fleet-*' haproxy; systemctl --failed; systemctl show 'ephemeral-builder*'; true",
		"host.txt":    "ps -ef; findmnt; machinectl list; free -m; df -h; true",
	} {
		var text bytes.Buffer
		errs = append(errs, h.run(ctx, command, nil, &text, &text))
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), text.Bytes(), 0o644))
	}
	return errors.Join(errs...)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
