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
	"golang.org/x/sys/unix"

	"ephemeral-builder/harness/lab"
	"ephemeral-builder/harness/script"
	"ephemeral-builder/image/cache"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/spec"
)

var (
	labKind  = flag.String("lab.kind", "", "run the scripts of testdata on a lab of this kind: vm or container")
	labSuite = flag.String("lab.suite", "trixie", "Debian suite of the lab host")
	labOwner = flag.Int("lab.owner", 0, "end the lab when this process does")
)

// TestScripts runs testdata/*.txtar one after the other on one lab. After each it judges
// the host's health, and if the script failed it keeps the evidence.
func TestScripts(t *testing.T) {
	if *labKind == "" {
		t.Skip("needs a lab: go tool mage test")
	}
	kind, err := lab.ParseKind(*labKind)
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
	rep := progress.New(os.Stdout)
	dir, err := filepath.Abs(filepath.Join(results(*labKind, *labSuite), "lab"))
	if err != nil {
		t.Fatal(err)
	}
	h, err := startHost(ctx, rep, lab.Config{Kind: kind, Suite: *labSuite, Cache: filepath.Join(cache.Dir(), "labs"), Dir: dir}, spec.Default())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := h.close(ctx); err != nil {
			t.Error(err)
		}
	})
	// Without its lab every script fails at once.
	context.AfterFunc(ctx, func() { _ = h.close(context.WithoutCancel(ctx)) })
	if _, err := h.output(ctx, "ephemeral-builder install -spec=lab.toml"); err != nil {
		t.Fatal(err)
	}
	target, _, err := h.builder(ctx, spec.Default().Name)
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
		},
	}
	if h.lab.Describe().Accel == lab.TCG {
		env.Scale = 4
	}
	ran := 0
	t.Cleanup(func() {
		if ran == 0 && !t.Failed() {
			t.Error("no script ran")
		}
	})
	t.Run("scripts", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir:                 "testdata",
			Cmds:                script.Commands(env),
			Condition:           script.Condition(env),
			RequireExplicitExec: true,
			RequireUniqueNames:  true,
			Setup: func(e *testscript.Env) error {
				name := strings.TrimPrefix(filepath.Base(e.WorkDir), "script-")
				w := watch{h: h, name: name, t: e.T()}
				// Runs after script's own clean-up, which is deferred later.
				e.Defer(func() {
					w.end(ctx)
					if skipped := e.T().(interface{ Skipped() bool }).Skipped(); !skipped {
						ran++
					}
				})
				if err := w.begin(ctx); err != nil {
					return err
				}
				return script.Setup(env)(e)
			},
		})
	})
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

// watch judges the host before and after one script.
type watch struct {
	h     *host
	name  string
	t     testscript.T
	since string // journal cursor
}

// begin brings the host to the state that every script starts from.
func (w *watch) begin(ctx context.Context) error {
	if err := w.h.reconnect(ctx); err != nil {
		return err
	}
	out, err := w.h.output(ctx, "systemctl reset-failed; ephemeral-builder install -spec=lab.toml >/dev/null 2>&1 && journalctl -q -n 0 --show-cursor")
	w.since = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(out), "-- cursor: "))
	return err
}

// healthy is what must hold on the host when no client is connected.
const healthy = `
systemctl --failed --no-legend --plain
systemctl list-units --all --no-legend --plain 'ephemeral-builder@*'
machinectl list --no-legend
findmnt -rno TARGET | grep nspawn/unix-export
systemctl is-active ephemeral-builder.socket | grep -v '^active$'
true`

// end fails the script if it left the host in bad health, and keeps evidence of failure.
func (w *watch) end(ctx context.Context) {
	var trouble string
	deadline := time.Now().Add(time.Minute)
	for {
		out, err := w.h.output(ctx, healthy)
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
	failed := w.t.(interface{ Failed() bool }).Failed()
	if trouble == "" && !failed {
		return
	}
	where, err := w.evidence(ctx)
	w.t.Log("evidence is in", where, errors.Join(err))
	if trouble != "" && !failed {
		w.t.Log("the script left this on the host:\n" + trouble)
		w.t.FailNow()
	}
}

// evidence saves what explains a failure.
func (w *watch) evidence(ctx context.Context) (dir string, err error) {
	if err := w.h.reconnect(ctx); err != nil {
		return "", err
	}
	dir = filepath.Join(results(*labKind, *labSuite), w.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return dir, err
	}
	var errs []error
	for name, command := range map[string]string{
		"journal.txt": fmt.Sprintf("journalctl -q --no-pager -o short-precise --after-cursor='%s'", w.since),
		"units.txt":   "systemctl --no-pager --full --all status 'ephemeral-builder*'; systemctl --failed; systemctl show 'ephemeral-builder*'; true",
		"host.txt":    "ps -ef; findmnt; machinectl list; free -m; df -h; true",
	} {
		var text bytes.Buffer
		errs = append(errs, w.h.run(ctx, command, nil, &text, &text))
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), text.Bytes(), 0o644))
	}
	console, err := os.Open(filepath.Join(w.h.lab.Describe().Dir, lab.ConsoleLog))
	if err == nil {
		defer console.Close()
		var copied *os.File
		if copied, err = os.Create(filepath.Join(dir, "console.log")); err == nil {
			_, err = io.Copy(copied, console)
			err = errors.Join(err, copied.Close())
		}
	}
	rerun := fmt.Sprintf("#!/bin/sh\n# In the project's root:\ngo tool mage test -kind=%s -suite=%s -run='^%s$'\n", *labKind, *labSuite, w.name)
	errs = append(errs, err, os.WriteFile(filepath.Join(dir, "rerun.sh"), []byte(rerun), 0o755))
	return dir, errors.Join(errs...)
}
