package study

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"

	"ephemeral-builder/harness/simulate"
	"ephemeral-builder/harness/simulate/queueing"
)

// The aim of all that is called needed: the share of jobs that come in the busy hour, the one around
// the highest load, that wait no longer. Of all jobs of the day fewer wait.
const (
	aimWait  = 10.0 // seconds
	aimShare = 0.95 // of jobs
)

// Rule is the square-root staffing rule, with room for a pipeline: slots = load + Room + K·√load,
// with the highest load of the day. Another seed gives another one: with six of them Room was 17 to 21
// and K 3.2 to 3.8, and Worst was 4 to 7 %.
type Rule struct {
	Room   float64 `json:"room"`
	K      float64 `json:"k"`
	Worst  float64 `json:"worst"`  // the largest difference to what is needed, a share of it
	Single float64 `json:"single"` // K if each job came alone, without room
	From   float64 `json:"from"`   // loads that it was fitted to
	To     float64 `json:"to"`
}

// Slots are those that the rule asks for.
func (r Rule) Slots(load float64) int {
	return int(math.Ceil(load + r.Room + r.K*math.Sqrt(load)))
}

// split is how many more slots two fleets need that have half the load each, as a share.
func (r Rule) split(load float64) float64 {
	need := func(load float64) float64 { return load + r.Room + r.K*math.Sqrt(load) }
	return 2*need(load/2)/need(load) - 1
}

// Need is how many slots it takes for some jobs a day.
type Need struct {
	Jobs    float64 `json:"jobs"`
	Days    int     `json:"days"` // simulated
	Busiest float64 `json:"busiest"`
	Slots   int     `json:"slots"`
	Single  int     `json:"single"` // if each job came alone
}

// Variant is another workload of the same load.
type Variant struct {
	Name       string  `json:"name"`
	Peakedness float64 `json:"peakedness"` // the variance of busy slots by their mean, by formula, without a cycle
	Slots      int     `json:"slots"`
	Normal     int     `json:"normal"` // slots if the number of busy ones were normal, with that variance
}

// needed is the least number of slots with which jobs meet the aim, behind one balancer; to within a
// tenth of the root of the load.
func (r *Result) needed(w simulate.Workload, days int, seed uint64) (int, error) {
	load, moment := w.Busiest()
	hour := simulate.Hour(moment)
	if w.Peak == 1 {
		hour = simulate.AllDay
	}
	// What comes after the hour changes nothing for those before, and nearly nothing the day after.
	jobs := slices.DeleteFunc(w.Generate(days, seed), func(j simulate.Job) bool { return math.Mod(j.Arrival, simulate.Day) >= hour.To })
	meets := func(slots int) (bool, error) {
		served, err := r.serve(jobs, slots, simulate.Balanced)
		return simulate.Longer(simulate.Waits(served, hour), aimWait) <= 1-aimShare, err
	}
	// From a guess to where the answer changes, in steps that double, and then by halves.
	spread := math.Sqrt(load * peakedness(w))
	few, many := 0, 0
	step := max(1, int(spread/8))
	for at := int(load + z95*spread + w.Pipeline); few == 0 || many == 0; step *= 2 {
		ok, err := meets(at)
		switch {
		case err != nil:
			return 0, err
		case ok && at == 1:
			return 1, nil
		case ok:
			many, at = at, max(1, at-step)
		default:
			few, at = at, at+step
		}
	}
	for many-few > max(1, int(math.Sqrt(load)/10)) {
		middle := (few + many) / 2
		ok, err := meets(middle)
		if err != nil {
			return 0, err
		}
		if ok {
			many = middle
		} else {
			few = middle
		}
	}
	return many, nil
}

func peakedness(w simulate.Workload) float64 {
	return queueing.Peakedness(w.Pipeline, w.Length.Mean(), w.Length.Quantile)
}

// z95 is that quantile of the normal distribution.
const z95 = 1.645

// needs finds how many slots it takes, and the rule.
func (r *Result) needs(ctx context.Context, e effort) error {
	var workloads []simulate.Workload
	var days []int
	add := func(w simulate.Workload, on int) { workloads, days = append(workloads, w), append(days, on) }
	for _, jobs := range e.needs {
		w := r.workload(jobs)
		add(w, e.daysOf(w))
		// The busy slots of single jobs vary less.
		w.Pipeline = 1
		add(w, max(2, e.daysOf(w)/4))
	}
	variants := r.variants(e.load)
	r.VariantLoad = e.load
	for _, v := range variants {
		add(v.Workload, max(e.days, e.daysOf(v.Workload)/2))
	}
	own := r.workload(float64(r.Jobs))
	add(own, e.ownDays(own))
	// The large ones first: they take longest.
	order := make([]int, len(workloads))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(workloads[b].Jobs, workloads[a].Jobs) })
	slots := make([]int, len(workloads))
	if err := parallel(ctx, len(order), func(i int) (err error) {
		i = order[i]
		seed := uint64(r.Seed)<<8 + uint64(i)
		if i == len(order)-1 {
			seed = uint64(r.Seed) // as in all else that is shown of these jobs
		}
		slots[i], err = r.needed(workloads[i], days[i], seed)
		return err
	}); err != nil {
		return err
	}
	for i, jobs := range e.needs {
		n := Need{Jobs: jobs, Days: days[2*i], Slots: slots[2*i], Single: slots[2*i+1]}
		n.Busiest, _ = workloads[2*i].Busiest()
		r.Needs = append(r.Needs, n)
	}
	for i, v := range variants {
		load, _ := v.Busiest()
		z := peakedness(v.Workload)
		r.Variants = append(r.Variants, Variant{
			Name: v.name, Peakedness: z, Slots: slots[2*len(e.needs)+i], Normal: int(math.Ceil(load + z95*math.Sqrt(z*load))),
		})
	}
	r.Needed = slots[len(slots)-1]
	r.Rule = fit(r.Needs)
	return nil
}

// fit finds the rule by least squares. The number of busy slots has a variance that grows with the
// load, and each day is one more look at it.
func fit(needs []Need) Rule {
	var root, more, single, weights []float64
	for _, n := range needs {
		root = append(root, math.Sqrt(n.Busiest))
		more, single = append(more, float64(n.Slots)-n.Busiest), append(single, float64(n.Single)-n.Busiest)
		weights = append(weights, float64(n.Days)/n.Busiest)
	}
	rule := Rule{From: needs[0].Busiest, To: needs[len(needs)-1].Busiest}
	rule.Room, rule.K = stat.LinearRegression(root, more, weights, false)
	_, rule.Single = stat.LinearRegression(root, single, weights, true)
	for _, n := range needs {
		rule.Worst = max(rule.Worst, math.Abs(float64(rule.Slots(n.Busiest)-n.Slots))/float64(n.Slots))
	}
	return rule
}

type variant struct {
	name string
	simulate.Workload
}

// variants are workloads of the same load that differ in one thing from how jobs come here.
func (r *Result) variants(load float64) (all []variant) {
	of := func(name string, w simulate.Workload) {
		one, _ := w.Busiest()
		w.Jobs *= load / one
		all = append(all, variant{name, w})
	}
	of("as here", r.workload(1))
	for _, pipeline := range []float64{1, 2, 4, 8, 16, 32} {
		w := r.workload(1)
		if w.Pipeline = pipeline; pipeline == 1 {
			of("each job alone", w)
		} else if pipeline != r.Pipeline {
			of(fmt.Sprintf("pipelines of %g jobs", pipeline), w)
		}
	}
	flat := r.workload(1)
	flat.Peak = 1
	of("the same all day", flat)
	shorter := r.workload(1)
	shorter.Length = simulate.Shorter()
	of("half of the jobs below 4 minutes, 80 % below 10", shorter)
	return all
}
