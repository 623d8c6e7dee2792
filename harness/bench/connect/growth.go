package connect

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"ephemeral-builder/harness/bench/plan"
)

// Grown is a number of containers, and what they cost.
type Grown struct {
	Containers int
	Start      Estimate // milliseconds, of those that started last
	Each       float64  // MiB of the machine's memory for each container
	Manager    float64  // milliseconds of PID 1's CPU time for each start
	Share      float64  // of one core that PID 1 took meanwhile, in per cent
	Mounts     int      // on the host
}

// GrownTo is Growth without the level of no containers, which all memory is compared with.
func (r *Result) GrownTo() (rows []Grown) {
	for i := 1; i < len(r.Growth); i++ {
		l := r.Growth[i]
		starts := durations(l.Starts)
		rows = append(rows, Grown{
			Containers: l.Connections, Start: estimate(starts), Mounts: l.Mounts,
			Each:    float64(l.Memory-r.Growth[0].Memory) / float64(l.Connections) / (1 << 20),
			Manager: milliseconds(l.Manager) / float64(len(starts)),
			Share:   100 * l.Manager.Seconds() / l.Took.Seconds(),
		})
	}
	return rows
}

func durations(of []plan.Duration) (values []float64) {
	for _, d := range of {
		values = append(values, milliseconds(d))
	}
	return values
}

// Freed is how long it took until nothing was left of the most containers, after the close of
// all their connections.
func (r *Result) Freed() time.Duration {
	if len(r.Growth) == 0 {
		return 0
	}
	return r.Growth[len(r.Growth)-1].Freed
}

func (r *Result) growthText() string {
	if len(r.Growth) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s with more and more idle containers\n", Ours)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "containers\tstart, ms\t\tMiB each\tPID 1, ms each\tof a core\tmounts\t\n")
	for _, g := range r.GrownTo() {
		fmt.Fprintf(w, "%d\t%.1f\t%.1f-%.1f\t%.1f\t%.1f\t%.0f %%\t%d\t\n", g.Containers, g.Start.Median, g.Start.Low, g.Start.High, g.Each, g.Manager, g.Share, g.Mounts)
	}
	w.Flush()
	fmt.Fprintf(&b, "all of them closed at once are gone after %.1f s\n", r.Freed().Seconds())
	return b.String()
}
