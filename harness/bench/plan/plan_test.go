package plan_test

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"ephemeral-builder/harness/bench/plan"
	"ephemeral-builder/harness/sshclient/sshtest"
)

// servers returns a plan with one contender for each of the options.
func servers(t *testing.T, options ...sshtest.Options) plan.Plan {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	p := plan.Plan{Warmup: 1, Rounds: 3, Clients: 2, Each: 2, Command: "true", Timeout: 10 * time.Second}
	for i, o := range options {
		if o.Identity, err = ssh.NewSignerFromKey(private); err != nil {
			t.Fatal(err)
		}
		s := sshtest.Start(t, o)
		p.Contenders = append(p.Contenders, plan.Contender{
			Name: string(rune('a' + i)), Addr: s.Addr, User: "builder",
			Identity: string(pem.EncodeToMemory(block)), HostKey: string(ssh.MarshalAuthorizedKey(s.Target.HostKey)),
		})
	}
	return p
}

func run(t *testing.T, p plan.Plan) []plan.Sample {
	t.Helper()
	var samples []plan.Sample
	if err := p.Run(t.Context(), func(s plan.Sample) error { samples = append(samples, s); return nil }); err != nil {
		t.Fatal(err)
	}
	return samples
}

func TestRun(t *testing.T) {
	p := servers(t, sshtest.Options{}, sshtest.Options{})
	samples := run(t, p)
	type turn struct {
		contender     string
		round, client int
	}
	counts := map[turn]int{}
	var spent plan.Duration
	for _, s := range samples {
		spent += s.Busy + s.Idle
		if s.Error != "" {
			t.Fatalf("%s: %s", s.Contender, s.Error)
		}
		if !(0 < s.Connected && s.Connected <= s.Banner && s.Banner <= s.Kex && s.Kex <= s.Auth && s.Auth <= s.Done) {
			t.Errorf("not one after the other: %+v", s)
		}
		counts[turn{s.Contender, s.Round, s.Client}]++
	}
	if spent == 0 {
		t.Error("no time was spent, at work or idle")
	}
	// Two contenders, three rounds without the warm-up, two clients, two connections of each.
	if len(counts) != 2*3*2 {
		t.Errorf("%d combinations of contender, round and client, want 12: %v", len(counts), counts)
	}
	for key, n := range counts {
		if n != 2 {
			t.Errorf("%+v: %d connections, want 2", key, n)
		}
	}
}

func TestRunFailures(t *testing.T) {
	p := servers(t, sshtest.Options{}, sshtest.Options{})
	p.Command = "exit 3"
	for _, s := range run(t, p) {
		if !strings.Contains(s.Error, "exit 3") || s.Done != 0 || s.Auth == 0 {
			t.Errorf("a command that fails: %+v", s)
		}
	}
	p.Contenders[0].HostKey, p.Contenders[1].HostKey = p.Contenders[1].HostKey, p.Contenders[0].HostKey
	for _, s := range run(t, p) {
		if !strings.Contains(s.Error, "host key mismatch") || s.Auth != 0 {
			t.Errorf("another host key: %+v", s)
		}
	}
}

func TestFreed(t *testing.T) {
	p := servers(t, sshtest.Options{})
	p.Clients, p.Warmup, p.Rounds, p.Each = 1, 0, 1, 1
	used := t.TempDir()
	p.Contenders[0].Used = used
	held := filepath.Join(used, "0:unit")
	if err := os.WriteFile(held, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	const hold = 100 * time.Millisecond
	time.AfterFunc(hold, func() { os.Remove(held) })
	begin := time.Now()
	s := run(t, p)[0]
	if ended := s.Start.Add(s.Done); s.Freed < hold-ended.Sub(begin) || s.Freed == 0 {
		t.Errorf("freed %v after the close, although the slot was held for %v", s.Freed, hold)
	}
}

func TestRunRefuses(t *testing.T) {
	good := servers(t, sshtest.Options{})
	for name, change := range map[string]func(*plan.Plan){
		"no rounds":     func(p *plan.Plan) { p.Rounds = 0 },
		"no clients":    func(p *plan.Plan) { p.Clients = 0 },
		"no contenders": func(p *plan.Plan) { p.Contenders = nil },
		"identity":      func(p *plan.Plan) { p.Contenders = []plan.Contender{{Name: "a", HostKey: p.Contenders[0].HostKey}} },
		"host key":      func(p *plan.Plan) { p.Contenders = []plan.Contender{{Name: "a", Identity: p.Contenders[0].Identity}} },
	} {
		p := good
		change(&p)
		if err := p.Run(t.Context(), func(plan.Sample) error { return nil }); err == nil {
			t.Errorf("%s: carried out", name)
		}
	}
	stop := errors.New("enough")
	if err := good.Run(t.Context(), func(plan.Sample) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the error of emit became %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := good.Run(ctx, func(plan.Sample) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of its context: %v", err)
	}
}

func TestGrowth(t *testing.T) {
	c := servers(t, sshtest.Options{}).Contenders[0]
	c.Used = t.TempDir()
	var levels []plan.Level
	g := plan.Growth{Contender: c, Levels: []int{1, 3}, Timeout: 10 * time.Second}
	if err := g.Run(t.Context(), func(l plan.Level) error { levels = append(levels, l); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(levels) != 3 || levels[0].Connections != 0 || levels[1].Connections != 1 || levels[2].Connections != 3 {
		t.Fatalf("got %+v, want 0, 1 and 3 connections", levels)
	}
	for i, starts := range []int{0, 1, 2} {
		l := levels[i]
		if len(l.Starts) != starts || l.Memory <= 0 || l.Mounts <= 0 || starts > 0 && l.Took <= 0 {
			t.Errorf("level %d: got %+v, want %d starts", i, l, starts)
		}
	}
	if levels[1].Freed != 0 || levels[2].Freed <= 0 {
		t.Errorf("freed after %v and %v, want it of the last", levels[1].Freed, levels[2].Freed)
	}
}
