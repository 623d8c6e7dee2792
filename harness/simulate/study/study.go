// Package study asks the simulation of many hosts what an administrator wants to know: how long
// jobs wait, how many slots it takes that they don't, what bursts and the way of giving jobs to hosts
// change, and where something else than slots is the limit.
package study

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"ephemeral-builder/harness/bench"
	"ephemeral-builder/harness/bench/connect"
	"ephemeral-builder/harness/simulate"
)

// Options says what fleet to look at.
type Options struct {
	Jobs  int    // on a working day
	Hosts int    // 0: as many as the rule of thumb says
	Slots int    // of each host
	Seed  int    // of all that is drawn
	From  string // a bench.json that says what a host takes; empty: the README's figures
	Start string // "on-demand" or "warm"

	// How jobs come and how long they take; each is as in [simulate.Traced] if it is left out.
	Peak, Pipeline float64
	Median, Mean   time.Duration
}

// hop is how much longer a connection takes through the balancer, in seconds: an assumption.
const hop = 0.002

// effort is how much is simulated.
type effort struct {
	jobs  int       // for each need: each day has one busy hour, whose jobs are much alike
	days  int       // at least
	needs []float64 // jobs a day for which needs are looked for
	load  float64   // the highest of the day in variants
}

var thorough = effort{240000, 10, []float64{200, 500, 1000, 2000, 5000, 10000, 20000, 50000}, 50}

// daysOf are those that make enough jobs.
func (e effort) daysOf(w simulate.Workload) int {
	return max(e.days, int(math.Ceil(float64(e.jobs)/w.Jobs)))
}

// ownDays are those of the jobs that were asked for, with all numbers of slots.
func (e effort) ownDays(w simulate.Workload) int { return max(2, e.daysOf(w)/2) }

// mostJobs of a day take some seconds to simulate.
const mostJobs = 100000

// Result is what was found. Times are seconds, loads Erlang. It is written as JSON.
type Result struct {
	Jobs        int              `json:"jobs"` // on a working day
	Hosts       int              `json:"hosts"`
	Each        int              `json:"each"` // slots of a host
	Seed        int              `json:"seed"`
	Published   bool             `json:"published"` // jobs are as in the published figures, and not as asked for
	Host        simulate.Host    `json:"host"`
	HostFrom    string           `json:"host_from"`
	Mean        float64          `json:"mean"` // length of a job
	Median      float64          `json:"median"`
	Peak        float64          `json:"peak"` // of the busiest moment's rate to the mean
	Pipeline    float64          `json:"pipeline"`
	Load        float64          `json:"load"`    // the mean of the day
	Busiest     float64          `json:"busiest"` // the load at the moment of the day at which it is highest
	Moment      float64          `json:"moment"`  // of the day, seconds
	Day         simulate.Summary `json:"day"`     // of the fleet, with one balancer, all day
	Hour        simulate.Summary `json:"hour"`    // in the busy hour, as all that follows
	Needed      int              `json:"needed"`  // slots, at least, for the aim
	Rule        Rule             `json:"rule"`
	Needs       []Need           `json:"needs"`        // by jobs a day
	VariantLoad float64          `json:"variant_load"` // of them all
	Variants    []Variant        `json:"variants"`     // of bursts and lengths
	BySlots     []Point          `json:"by_slots"`     // for the jobs
	Policies    []Waiting        `json:"policies"`     // for the fleet
	Timeline    Timeline         `json:"timeline"`     // of one day of the fleet
	Limits      []Limit          `json:"limits"`
}

// Point is a fleet of some slots under some load.
type Point struct {
	Slots          int     `json:"slots"`
	Share          float64 `json:"share"`           // the highest load of the day to the slots
	DayUtilisation float64 `json:"day_utilisation"` // all day; waits are those of the busy hour
	simulate.Summary
}

// Waiting is how long jobs wait with a policy.
type Waiting struct {
	Policy simulate.Policy `json:"policy"`
	simulate.Summary
	Longer []float64 `json:"longer"` // shares of jobs that wait longer than each of Times
}

// Times are those of [Waiting], in seconds: from 1 to 10 hours, evenly on a logarithmic scale.
func Times() (times []float64) {
	for i := range 92 {
		times = append(times, math.Pow(10, float64(i)/20))
	}
	return times
}

// Timeline is a day, every five minutes.
type Timeline struct {
	Hours   []float64 `json:"hours"`
	Busy    []int     `json:"busy"`    // slots
	Waiting []int     `json:"waiting"` // jobs
}

// Write writes base.json and base.html.
func (r *Result) Write(base string) error { return bench.Write(base, r, r.page) }

// Run studies. It takes some ten seconds of CPU time.
func Run(ctx context.Context, o Options) (*Result, error) { return run(ctx, o, thorough) }

func run(ctx context.Context, o Options, e effort) (*Result, error) {
	switch {
	case o.Jobs < 10:
		return nil, fmt.Errorf("%d jobs a day are too few to say anything: ask for at least 10", o.Jobs)
	case o.Jobs > mostJobs:
		return nil, fmt.Errorf("%d jobs a day are more than this was made for: ask for at most %d", o.Jobs, mostJobs)
	case o.Slots < 1:
		return nil, fmt.Errorf("%d slots on each host: there must be at least 1", o.Slots)
	case o.Hosts < 0:
		return nil, fmt.Errorf("%d hosts: there must be some", o.Hosts)
	}
	r := &Result{Jobs: o.Jobs, Hosts: o.Hosts, Each: o.Slots, Seed: o.Seed}
	if err := r.host(o.From, o.Start); err != nil {
		return nil, err
	}
	traced := simulate.Traced(1)
	r.Peak, r.Pipeline = cmp.Or(o.Peak, traced.Peak), cmp.Or(o.Pipeline, traced.Pipeline)
	r.Median, r.Mean = cmp.Or(o.Median.Seconds(), traced.Length.Quantile(0.5)), cmp.Or(o.Mean.Seconds(), traced.Length.Mean())
	r.Published = o.Peak == 0 && o.Pipeline == 0 && o.Median == 0 && o.Mean == 0
	if !(0 < r.Median && r.Median < r.Mean) {
		return nil, fmt.Errorf("jobs last %s in the median and %s in the mean: the mean of a lognormal distribution is above its median", duration(r.Median), duration(r.Mean))
	}
	w := r.workload(float64(o.Jobs))
	if err := w.Validate(); err != nil {
		return nil, err
	}
	r.Load = w.Load()
	r.Busiest, r.Moment = w.Busiest()
	if err := r.needs(ctx, e); err != nil {
		return nil, err
	}
	if r.Hosts == 0 {
		r.Hosts = (r.Rule.Slots(r.Busiest) + r.Each - 1) / r.Each
	}
	if err := r.fleet(ctx, e, w); err != nil {
		return nil, err
	}
	r.Limits = r.limits()
	return r, nil
}

// workload is that of the study, with so many jobs a day.
func (r *Result) workload(jobs float64) simulate.Workload {
	return simulate.Workload{Jobs: jobs, Peak: r.Peak, Pipeline: r.Pipeline, Length: simulate.Lognormal(r.Median, r.Mean)}
}

// host finds out what a host takes.
func (r *Result) host(from, start string) error {
	contender := connect.Ours
	switch start {
	case "on-demand":
		r.Host = simulate.OnDemand()
	case "warm":
		r.Host, contender = simulate.Warm(), connect.Warm
	default:
		return fmt.Errorf("start is %q: use on-demand or warm", start)
	}
	r.HostFrom = "figures of the README"
	if from == "" {
		return nil
	}
	measured, err := connect.Read(from)
	if err != nil {
		return err
	}
	r.HostFrom = fmt.Sprintf("benchmark of %s: %s", measured.Date.Format(time.DateOnly), measured.Facts())
	if r.Host, err = Calibrate(measured, contender); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return nil
}

// parallel does work on all cores.
func parallel(ctx context.Context, n int, work func(i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range n {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return work(i)
		})
	}
	return group.Wait()
}

// serve lets so many slots serve jobs.
func (r *Result) serve(jobs []simulate.Job, slots int, policy simulate.Policy) ([]simulate.Served, error) {
	f := simulate.Fleet{Slots: simulate.Even(slots, r.Each), Host: r.Host, Policy: policy, Hop: hop}
	return f.Run(jobs, uint64(r.Seed))
}

// fleet looks at the fleet itself, and at others of more and fewer slots.
func (r *Result) fleet(ctx context.Context, e effort, w simulate.Workload) error {
	hour := simulate.Hour(r.Moment)
	jobs := w.Generate(e.ownDays(w), uint64(r.Seed))
	// The same jobs for all: what differs is due to the slots. They are the load, and first more
	// and then less than what is needed above it.
	for part := 2.5; part > -0.3; part -= 0.25 {
		slots := int(math.Round(r.Busiest + part*(float64(r.Needed)-r.Busiest)))
		if slots > 0 && (len(r.BySlots) == 0 || slots < r.BySlots[len(r.BySlots)-1].Slots) {
			r.BySlots = append(r.BySlots, Point{Slots: slots, Share: r.Busiest / float64(slots)})
		}
	}
	r.Policies = make([]Waiting, len(simulate.Policies))
	return parallel(ctx, len(r.BySlots)+len(r.Policies), func(i int) error {
		if i < len(r.BySlots) {
			p := &r.BySlots[i]
			served, err := r.serve(jobs, p.Slots, simulate.Balanced)
			p.Summary, p.DayUtilisation = simulate.Summarize(served, p.Slots, hour), simulate.Summarize(served, p.Slots, simulate.AllDay).Utilisation
			return err
		}
		i -= len(r.BySlots)
		policy, slots := simulate.Policies[i], r.Hosts*r.Each
		served, err := r.serve(jobs, slots, policy)
		if err != nil {
			return err
		}
		r.Policies[i] = Waiting{Policy: policy, Summary: simulate.Summarize(served, slots, hour)}
		waits := simulate.Waits(served, hour)
		for _, t := range Times() {
			r.Policies[i].Longer = append(r.Policies[i].Longer, simulate.Longer(waits, t))
		}
		if policy == simulate.Balanced {
			r.Day, r.Hour = simulate.Summarize(served, slots, simulate.AllDay), r.Policies[i].Summary
			r.Timeline = timeline(served)
		}
		return nil
	})
}

// timeline is a day of the first working week, the one on which jobs wait most. A simulation's first
// day is not one of them, as it begins with nothing to do.
func timeline(served []simulate.Served) (t Timeline) {
	wait := make([]float64, 7)
	for _, s := range served {
		if day := int(s.Arrival / simulate.Day); 0 < day && day <= 5 {
			wait[day] += s.Wait()
		}
	}
	day := max(1, slices.Index(wait, slices.Max(wait)))
	var at []float64
	for x := 0.0; x <= simulate.Day; x += 300 {
		at = append(at, float64(day)*simulate.Day+x)
		t.Hours = append(t.Hours, x/3600)
	}
	arrival := func(s simulate.Served) float64 { return s.Arrival }
	given := func(s simulate.Served) float64 { return s.Given }
	freed := func(s simulate.Served) float64 { return s.Freed }
	t.Busy, t.Waiting = simulate.Count(served, given, freed, at), simulate.Count(served, arrival, given, at)
	return t
}
