package study

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"ephemeral-builder/harness/bench/connect"
	"ephemeral-builder/harness/bench/plan"
	"ephemeral-builder/harness/simulate"
)

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if !(math.Abs(got-want) <= within) {
		t.Errorf("%s is %v, want %v, give or take %v", what, got, want, within)
	}
}

var quick = effort{2000, 2, []float64{100, 200, 400, 800}, 20}

func study(t *testing.T, o Options) *Result {
	t.Helper()
	r, err := run(context.Background(), o, quick)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRun(t *testing.T) {
	o := Options{Jobs: 300, Slots: 4, Seed: 1, Start: "on-demand"}
	r := study(t, o)
	if want := (r.Rule.Slots(r.Busiest) + 3) / 4; r.Hosts != want {
		t.Errorf("%d hosts, want %d by the rule", r.Hosts, want)
	}
	if len(r.Needs) != len(quick.needs) || len(r.Policies) != len(simulate.Policies) || len(r.BySlots) < 10 || len(r.Variants) != 8 {
		t.Errorf("got %d needs, %d policies, %d fleets, %d variants", len(r.Needs), len(r.Policies), len(r.BySlots), len(r.Variants))
	}
	for _, n := range r.Needs {
		if !(float64(n.Single) > n.Busiest && n.Slots > n.Single) {
			t.Errorf("jobs in pipelines need more slots than single ones, and those more than the load: %+v", n)
		}
	}
	for i, p := range r.BySlots[1:] {
		before := r.BySlots[i]
		if p.Slots >= before.Slots || p.P95 < before.P95 || p.Mean < before.Mean || p.Over10 < before.Over10 {
			t.Errorf("with fewer slots jobs wait less: %+v, and then %+v", before, p)
		}
	}
	if len(r.Timeline.Busy) != 289 || len(r.Timeline.Hours) != 289 || r.Timeline.Hours[288] != 24 {
		t.Errorf("a day has %d moments", len(r.Timeline.Busy))
	}
	if again := study(t, o); !reflect.DeepEqual(r, again) {
		t.Error("the same seed gives another result")
	}
	if !r.Published || r.Pipeline != 8 || r.Variants[0].Slots == 0 {
		t.Errorf("the workload is not the published one: %+v", r)
	}
	o.Seed, o.Hosts = 2, 7
	if other := study(t, o); other.Hosts != 7 || reflect.DeepEqual(r.Needs, other.Needs) {
		t.Errorf("another seed gives the same needs, or %d hosts are not 7", other.Hosts)
	}
}

func TestRunAsAsked(t *testing.T) {
	r := study(t, Options{Jobs: 300, Slots: 4, Start: "warm", Peak: 2, Pipeline: 3, Median: time.Minute, Mean: 2 * time.Minute})
	if r.Published || r.Peak != 2 || r.Pipeline != 3 || r.Median != 60 || r.Mean != 120 {
		t.Errorf("got %+v", r)
	}
	near(t, "the load", r.Load, 300*120/simulate.Day, 1e-9)
	// The highest load, with jobs that are short, is that of the highest rate.
	near(t, "the highest load", r.Busiest, 2*r.Load, 0.01*r.Load)
}

func TestRunRefuses(t *testing.T) {
	good := Options{Jobs: 100, Slots: 4, Start: "warm"}
	for want, change := range map[string]func(*Options){
		"too few":               func(o *Options) { o.Jobs = 5 },
		"at most 100000":        func(o *Options) { o.Jobs = 1e6 },
		"at least 1":            func(o *Options) { o.Slots = 0 },
		"-1 hosts":              func(o *Options) { o.Hosts = -1 },
		"above its median":      func(o *Options) { o.Median = time.Hour },
		"must be 1 to 3":        func(o *Options) { o.Peak = 5 },
		"use on-demand or warm": func(o *Options) { o.Start = "cold" },
		"no such file":          func(o *Options) { o.From = "testdata/none.json" },
		"no result of this benchm": func(o *Options) {
			o.From = filepath.Join(t.TempDir(), "x.json")
			os.WriteFile(o.From, []byte("[]"), 0o644)
		},
	} {
		o := good
		change(&o)
		if _, err := run(context.Background(), o, quick); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := run(ctx, good, quick); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled, it returned %v", err)
	}
}

// What is called needed meets the aim, and one slot less does not.
func TestNeeded(t *testing.T) {
	r := &Result{Each: 4, Host: simulate.OnDemand()}
	for _, pipeline := range []float64{1, 8} {
		w := simulate.Traced(200)
		w.Pipeline = pipeline
		const days = 20
		slots, err := r.needed(w, days, 3)
		if err != nil {
			t.Fatal(err)
		}
		_, moment := w.Busiest()
		hour := simulate.Hour(moment)
		for _, test := range []struct {
			slots int
			meets bool
		}{{slots, true}, {slots - 1, false}} {
			served, err := r.serve(w.Generate(days, 3), test.slots, simulate.Balanced)
			if err != nil {
				t.Fatal(err)
			}
			if late := simulate.Longer(simulate.Waits(served, hour), 10); late <= 0.05 != test.meets {
				t.Errorf("of %v per pipeline, with %d slots of %d needed, %v wait", pipeline, test.slots, slots, late)
			}
		}
	}
}

func TestFit(t *testing.T) {
	var needs []Need
	for _, load := range []float64{10, 50, 200, 1000} {
		needs = append(needs, Need{
			Busiest: load, Days: 10, Slots: int(math.Round(load + 15 + 3*math.Sqrt(load))), Single: int(math.Round(load + 2*math.Sqrt(load))),
		})
	}
	rule := fit(needs)
	near(t, "the room", rule.Room, 15, 1)
	near(t, "k", rule.K, 3, 0.1)
	near(t, "k of single jobs", rule.Single, 2, 0.1)
	if rule.Worst > 0.05 || rule.From != 10 || rule.To != 1000 {
		t.Errorf("got %+v", rule)
	}
	exact := Rule{Room: 15, K: 3}
	if got := exact.Slots(100); got != 145 {
		t.Errorf("for 100 at once the rule says %d, want 145", got)
	}
	near(t, "what two fleets cost", exact.split(100), 2*(50+15+3*math.Sqrt(50))/145-1, 1e-9)
}

func TestLimits(t *testing.T) {
	r := &Result{Each: 8, Mean: 1600, Host: simulate.OnDemand(), Rule: Rule{Room: 20, K: 4}}
	hosts := map[string]int{}
	for _, l := range r.limits() {
		hosts[l.What] = l.Hosts
		if l.Why == "" {
			t.Errorf("no reason for %s", l.What)
		}
	}
	for what, want := range map[string]int{
		"the web server with the images": 1430, // 1.258 s each
		"the balancer's connections":     65536,
		"the balancer's time":            100000,
	} {
		if hosts[what] != want {
			t.Errorf("%s ends at %d hosts, want %d", what, hosts[what], want)
		}
	}
	load := float64(8*hosts["one fleet rather than two"]) / 1.1
	near(t, "what two fleets of that size cost", r.Rule.split(load), tolerated, 0.005)
}

// measured has n connections of each of one and of eight clients, which take so long.
func measured(contender string, alone time.Duration, perSecond float64) *connect.Result {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := &connect.Result{Contenders: []connect.Contender{{Name: contender}}}
	one, eight := connect.Series{Clients: 1}, connect.Series{Clients: 8}
	for round := range 10 {
		one.Samples = append(one.Samples, plan.Sample{Contender: contender, Round: round, Start: start, Done: alone, Freed: 40 * time.Millisecond})
		for range 8 {
			eight.Samples = append(eight.Samples, plan.Sample{Contender: contender, Round: round, Start: start, Done: time.Duration(8 / perSecond * float64(time.Second))})
		}
	}
	r.Series = []connect.Series{one, eight}
	return r
}

func TestCalibrate(t *testing.T) {
	r := measured(connect.Ours, 60*time.Millisecond, 20)
	h, err := Calibrate(r, connect.Ours)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "a start", h.Start, 0.06, 1e-9)
	near(t, "until a slot is free", h.Free, 0.04, 1e-9)
	near(t, "one client's rate", h.Starts(1), 1/0.06, 1e-9)
	near(t, "eight clients' rate", h.Starts(8), 20, 1e-6)
	if h.RunningSlope != simulate.OnDemand().RunningSlope {
		t.Errorf("without growth the slope is %v", h.RunningSlope)
	}
	r.Growth = []plan.Level{
		{}, {Connections: 1, Starts: []plan.Duration{50 * time.Millisecond}},
		{Connections: 101, Starts: []plan.Duration{70 * time.Millisecond}, Freed: 2040 * time.Millisecond},
	}
	if h, err = Calibrate(r, connect.Ours); err != nil {
		t.Fatal(err)
	}
	near(t, "what each container adds", h.RunningSlope, 0.0002, 1e-9)
	near(t, "what each end adds", h.FreeSlope, 0.02, 1e-9)

	for want, change := range map[string]func(*connect.Result){
		"no connections of one client":      func(r *connect.Result) { r.Series = r.Series[1:] },
		"no connections of several clients": func(r *connect.Result) { r.Series = r.Series[:1] },
		"clients to warm":                   nil,
	} {
		r, contender := measured(connect.Ours, time.Millisecond, 20), connect.Ours
		if change != nil {
			change(r)
		} else {
			contender, want = connect.Warm, "no connections of one client to warm"
		}
		if _, err := Calibrate(r, contender); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestFrom(t *testing.T) {
	base := filepath.Join(t.TempDir(), "bench")
	m := measured(connect.Warm, 30*time.Millisecond, 25)
	m.Date = time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)
	if err := m.Write(base); err != nil {
		t.Fatal(err)
	}
	r := &Result{}
	if err := r.host(base+".json", "warm"); err != nil {
		t.Fatal(err)
	}
	near(t, "a start", r.Host.Start, 0.03, 1e-9)
	near(t, "eight clients' rate", r.Host.Starts(8), 25, 1e-6)
	if !strings.Contains(r.HostFrom, "2026-03-04") {
		t.Errorf("it is from %q", r.HostFrom)
	}
}

func TestWrite(t *testing.T) {
	r := study(t, Options{Jobs: 300, Slots: 4, Seed: 1, Start: "warm"})
	base := filepath.Join(t.TempDir(), "fleet")
	if err := r.Write(base); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(base + ".json")
	if err != nil {
		t.Fatal(err)
	}
	read := new(Result)
	if err := json.Unmarshal(text, read); err != nil || !reflect.DeepEqual(r, read) {
		t.Errorf("what was read is not what was written: %v", err)
	}
	html, err := os.ReadFile(base + ".html")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"300 jobs a day need", r.Rule.String(), "figures of the README", "random host per job"} {
		if !strings.Contains(string(html), want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if got := strings.Count(string(html), "<svg"); got != 5 {
		t.Errorf("%d plots, want 5", got)
	}
	for _, banned := range []string{"<script", "src=", "<?xml", "NaN", "ZgotmplZ", "%!"} {
		if strings.Contains(string(html), banned) {
			t.Errorf("the page has %q", banned)
		}
	}
	for _, want := range []string{r.Rule.String(), "least connections", "busy all day", "if each job came alone"} {
		if !strings.Contains(r.Text(), want) {
			t.Errorf("no %q in\n%s", want, r.Text())
		}
	}
}

func TestDuration(t *testing.T) {
	for seconds, want := range map[float64]string{0: "0 s", 0.04: "0.0 s", 9.94: "9.9 s", 59.6: "60 s", 130: "2 min", 7200: "120 min"} {
		if got := duration(seconds); got != want {
			t.Errorf("%v s are %q, want %q", seconds, got, want)
		}
	}
}
