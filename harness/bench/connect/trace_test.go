package connect

import (
	"strings"
	"testing"
	"time"

	"ephemeral-builder/harness/bench/plan"
	"ephemeral-builder/harness/bench/trace"
)

const ms = time.Millisecond

// traced is a connection on demand: PID 1 is 1, and the job's shell 14. All is after a second on
// the kernel's clock.
func traced() plan.Sample {
	s := plan.Sample{
		Contender: Ours, Dialed: time.Second,
		Banner: 40 * ms, Kex: 50 * ms, Auth: 60 * ms, Done: 70 * ms,
	}
	event := func(at time.Duration, kind string, pid, child int, file string) {
		s.Events = append(s.Events, trace.Event{At: time.Second + at, Kind: kind, PID: pid, Child: child, File: file})
	}
	event(-5*ms, trace.Exec, 90, 0, "/bin/bash") // of before
	event(3*ms, trace.Fork, 1, 10, "")
	event(4*ms, trace.Exec, 10, 0, "/proc/self/fd/9")
	event(8*ms, trace.Exec, 10, 0, "/usr/bin/perl")
	event(12*ms, trace.Exec, 10, 0, "/usr/bin/systemd-nspawn")
	event(13*ms, trace.Fork, 10, 11, "")
	event(20*ms, trace.Exec, 11, 0, "/usr/bin/perl")
	event(21*ms, trace.Fork, 1, 20, "")
	event(22*ms, trace.Exec, 20, 0, "/usr/bin/busctl")
	event(25*ms, trace.Exit, 20, 0, "")
	event(30*ms, trace.Exec, 11, 0, "/usr/sbin/sshd")
	event(61*ms, trace.Fork, 11, 14, "")
	event(62*ms, trace.Exec, 11, 0, "/usr/bin/late") // after it has had the next one
	event(65*ms, trace.Exec, 14, 0, "/bin/bash")
	event(80*ms, trace.Exec, 91, 0, "/bin/bash") // of later
	return s
}

func TestNewTrace(t *testing.T) {
	got, err := NewTrace(traced())
	if err != nil {
		t.Fatal(err)
	}
	want := []Span{
		{"systemd: accept, unit", 0, 4 * ms},
		{"systemd-executor: sandbox of the unit", 4 * ms, 8 * ms},
		{"enter: slot, network", 8 * ms, 12 * ms},
		{"systemd-nspawn: the container", 12 * ms, 20 * ms},
		{"confine, entrypoint: filters, bounds, home", 20 * ms, 30 * ms},
		{"sshd: configuration, keys", 30 * ms, 40 * ms},
		{"key exchange", 40 * ms, 50 * ms},
		{"authentication", 50 * ms, 60 * ms},
		{"session: the user's processes", 60 * ms, 65 * ms},
		{"the shell, and its end", 65 * ms, 70 * ms},
	}
	if len(got.Stages) != len(want) {
		t.Fatalf("got %+v, want %+v", got.Stages, want)
	}
	for i := range want {
		if got.Stages[i] != want[i] {
			t.Errorf("stage %d is %+v, want %+v", i, got.Stages[i], want[i])
		}
	}
	if want := (Span{"busctl", 22 * ms, 25 * ms}); len(got.Beside) != 2 || got.Beside[0] != want || got.Beside[1].Name != "late" {
		t.Errorf("beside: %+v, want %+v and late", got.Beside, want)
	}

	r := result(1.2)
	r.Traces = []Trace{got, got, {Contender: Ours, Stages: got.Stages}}
	text := r.Text()
	for _, want := range []string{"12.0    8.0    8.0-8.0  systemd-nspawn: the container", "meanwhile, from 22.0 to 25.0: busctl"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if err := r.page(new(strings.Builder)); err != nil {
		t.Error(err)
	}
}

func TestNewTraceOfWaiting(t *testing.T) {
	s := plan.Sample{Contender: Warm, Banner: 10 * ms, Kex: 20 * ms, Auth: 30 * ms, Done: 40 * ms, Events: []trace.Event{
		{At: ms, Kind: trace.Exec, PID: 11, File: "/usr/sbin/sshd"},
		{At: 31 * ms, Kind: trace.Fork, PID: 11, Child: 12},
		{At: 32 * ms, Kind: trace.Exec, PID: 12, File: "/bin/bash"},
	}}
	got, err := NewTrace(s)
	if want := (Span{"the waiting entrypoint: accept", 0, ms}); err != nil || got.Stages[0] != want {
		t.Errorf("got %+v, %v, want %+v first", got.Stages, err, want)
	}
	s.Events = s.Events[:2]
	if _, err := NewTrace(s); err == nil {
		t.Error("a trace without a shell passed")
	}
	s.Error = "refused"
	if _, err := NewTrace(s); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a failed connection: got %v", err)
	}
}

func TestGrown(t *testing.T) {
	r := result(1.2)
	r.Growth = []plan.Level{
		{Memory: 100 << 20, Mounts: 5},
		{Connections: 1, Starts: []plan.Duration{50 * ms}, Took: 100 * ms, Manager: 10 * ms, Memory: 103 << 20, Mounts: 6},
		{Connections: 4, Starts: []plan.Duration{60 * ms, 70 * ms, 80 * ms}, Took: 200 * ms, Manager: 30 * ms, Memory: 108 << 20, Mounts: 9, Freed: time.Second},
	}
	rows := r.GrownTo()
	if len(rows) != 2 {
		t.Fatalf("got %+v, want two rows", rows)
	}
	if g := rows[1]; g.Containers != 4 || g.Start != (Estimate{70, 60, 80}) || g.Each != 2 || g.Manager != 10 || g.Share != 15 || g.Mounts != 9 {
		t.Errorf("got %+v", g)
	}
	if text := r.Text(); !strings.Contains(text, "all of them closed at once are gone after 1.0 s") {
		t.Errorf("no end in\n%s", text)
	}
	if err := r.page(new(strings.Builder)); err != nil {
		t.Error(err)
	}
}

func TestJobs(t *testing.T) {
	jobs, err := NewJobs([]plan.Sample{
		{Contender: Floor, Round: 0, Output: "1000000000 9000000000\n", Done: 10 * time.Second},
		{Contender: Ours, Round: 0, Output: "1500000000 9500000000\n", Done: 11 * time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := result(1.2)
	r.Jobs = jobs
	rows := r.jobRows()
	if len(rows) != 2 || rows[1].Name != Ours || rows[1].Clone.Median != 1.5 || rows[1].Build.Median != 9.5 || rows[1].ToFloor.Median != 1.1 {
		t.Errorf("got %+v", rows)
	}
	if _, err := NewJobs([]plan.Sample{{Output: "no figures"}}); err == nil {
		t.Error("a job without figures passed")
	}
	if r.Jobs, err = NewJobs([]plan.Sample{{Contender: Ours, Error: "refused"}}); err != nil || !strings.Contains(r.Text(), "ephemeral-builder: a job failed: refused") || len(r.jobRows()) != 0 {
		t.Errorf("a failed job: %v in\n%s", err, r.Text())
	}
}
