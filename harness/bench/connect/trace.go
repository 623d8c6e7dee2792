package connect

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"ephemeral-builder/harness/bench/plan"
	"ephemeral-builder/harness/bench/trace"
)

// Trace is where the time of one connection went, by the kernel's clock.
type Trace struct {
	Contender string `json:"contender"`
	Stages    []Span `json:"stages"` // one after the other
	Beside    []Span `json:"beside"` // programs that run meanwhile, but not on its way
}

// Span is a time, since the dial.
type Span struct {
	Name string        `json:"name"`
	From time.Duration `json:"from"`
	To   time.Duration `json:"to"`
}

// stageNames say what programs on the way of a connection do, until the next one or until the
// client sees something of it. There are two of perl.
var stageNames = map[string]string{
	"systemd-executor": "systemd-executor: sandbox of the unit",
	"enter":            "enter: slot, network",
	"systemd-nspawn":   "systemd-nspawn: the container",
	"confine":          "confine, entrypoint: filters, bounds, home",
	"sshd":             "sshd: configuration, keys",
	"sshd-session":     "sshd-session: until its greeting",
	"bash":             "the shell, and its end",
}

// NewTrace finds the way of a connection that was traced: the programs from the service manager
// to the job's shell, and what the client saw. An error tells of a trace without them.
func NewTrace(s plan.Sample) (Trace, error) {
	t := Trace{Contender: s.Contender}
	if s.Error != "" {
		return t, fmt.Errorf("the traced connection to %s: %s", s.Contender, s.Error)
	}
	parent, forked, ended := map[int]int{}, map[int]time.Duration{}, map[int]time.Duration{}
	execs := map[int][]trace.Event{}
	shell := 0
	for _, e := range s.Events {
		e.At -= s.Dialed
		switch e.Kind {
		case trace.Fork:
			parent[e.Child], forked[e.Child] = e.PID, e.At
		case trace.Exit:
			ended[e.PID] = e.At
		case trace.Exec:
			if e.At < 0 || e.At > s.Done {
				continue
			}
			execs[e.PID] = append(execs[e.PID], e)
			if path.Base(e.File) == "bash" {
				shell = e.PID
			}
		}
	}
	if shell == 0 {
		return t, fmt.Errorf("no shell in the trace of a connection to %s", s.Contender)
	}
	// Of each ancestor what it was before it had the next one.
	until := s.Done
	for pid := shell; pid != 0; pid = parent[pid] {
		own := execs[pid]
		execs[pid] = slices.DeleteFunc(slices.Clone(own), func(e trace.Event) bool { return e.At < until })
		for _, e := range own {
			if e.At < until {
				t.Stages = append(t.Stages, Span{Name: program(e.File), From: e.At})
			}
		}
		until = forked[pid]
	}
	byStart := func(a, b Span) int { return cmp.Compare(a.From, b.From) }
	slices.SortFunc(t.Stages, byStart)
	first := "systemd: accept, unit"
	inside := !slices.ContainsFunc(t.Stages, func(s Span) bool { return s.Name == "systemd-nspawn" })
	if inside && t.Stages[0].Name == "sshd" {
		first = "the waiting entrypoint: accept"
	}
	for i, stage := range t.Stages {
		name := stage.Name
		switch {
		case name == "systemd-nspawn":
			inside = true
		case name == "perl" && inside:
			name = "confine"
		case name == "perl":
			name = "enter"
		}
		t.Stages[i].Name = cmp.Or(stageNames[name], name)
	}
	t.Stages = append(t.Stages, Span{Name: first}, Span{Name: "key exchange", From: s.Banner}, Span{Name: "authentication", From: s.Kex}, Span{Name: "session: the user's processes", From: s.Auth})
	slices.SortStableFunc(t.Stages, byStart)
	for i := range t.Stages {
		t.Stages[i].To = s.Done
		if i+1 < len(t.Stages) {
			t.Stages[i].To = t.Stages[i+1].From
		}
	}
	for pid, own := range execs {
		for i, e := range own {
			to, ok := ended[pid]
			if i+1 < len(own) {
				to = own[i+1].At
			} else if !ok {
				to = s.Done
			}
			t.Beside = append(t.Beside, Span{program(e.File), e.At, to})
		}
	}
	slices.SortFunc(t.Beside, byStart)
	return t, nil
}

// program is the name of a file that was started. The service manager starts its own executor
// by a descriptor.
func program(file string) string {
	if path.Dir(file) == "/proc/self/fd" {
		return "systemd-executor"
	}
	return path.Base(file)
}

// Stage is a part of a contender's connections, in milliseconds: when it begins, and how long
// it takes.
type Stage struct {
	Name         string
	Begins, Time Estimate
}

// stages are those of a contender, of the kind that of picks, if more than half of its
// connections have them.
func (r *Result) stages(contender string, of func(Trace) []Span) []Stage {
	begins, times := map[string][]float64{}, map[string][]float64{}
	count := 0
	for _, t := range r.Traces {
		if t.Contender != contender {
			continue
		}
		count++
		seen := map[string]bool{}
		for _, span := range of(t) {
			if seen[span.Name] {
				continue // the first of its name
			}
			seen[span.Name] = true
			begins[span.Name] = append(begins[span.Name], milliseconds(span.From))
			times[span.Name] = append(times[span.Name], milliseconds(span.To-span.From))
		}
	}
	var stages []Stage
	for name := range begins {
		if 2*len(begins[name]) > count {
			stages = append(stages, Stage{name, estimate(begins[name]), estimate(times[name])})
		}
	}
	slices.SortFunc(stages, func(a, b Stage) int { return cmp.Compare(a.Begins.Median, b.Begins.Median) })
	return stages
}

func onTheWay(t Trace) []Span { return t.Stages }
func beside(t Trace) []Span   { return t.Beside }

// traced are the contenders of which there are traces.
func (r *Result) traced() (names []string) {
	for _, c := range r.Contenders {
		if slices.ContainsFunc(r.Traces, func(t Trace) bool { return t.Contender == c.Name }) {
			names = append(names, c.Name)
		}
	}
	return names
}

// traceText shows where the time of a connection goes.
func (r *Result) traceText() string {
	var b strings.Builder
	for _, name := range r.traced() {
		fmt.Fprintf(&b, "\n%s: the stages of a connection, milliseconds, with 95 %% intervals\n", name)
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(w, "begins\ttakes\t\t\n")
		for _, s := range r.stages(name, onTheWay) {
			fmt.Fprintf(w, "%.1f\t%.1f\t%.1f-%.1f\t  %s\n", s.Begins.Median, s.Time.Median, s.Time.Low, s.Time.High, s.Name)
		}
		w.Flush()
		for _, s := range r.stages(name, beside) {
			fmt.Fprintf(&b, "  meanwhile, from %.1f to %.1f: %s\n", s.Begins.Median, s.Begins.Median+s.Time.Median, s.Name)
		}
	}
	return b.String()
}
