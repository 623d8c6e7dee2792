package study

import (
	"fmt"

	"ephemeral-builder/harness/bench/connect"
	"ephemeral-builder/harness/simulate"
)

// Calibrate is what a host takes, by a result of the benchmark of connections: a start alone is the
// median of one client, and how much starts slow each other down follows from how many connections
// the most clients made in a second. What the result has nothing of is as in the README: how starts
// depend on the containers that run, and slots on how many end at once, without a part growth.
// The contender is [connect.Ours] or [connect.Warm].
func Calibrate(r *connect.Result, contender string) (simulate.Host, error) {
	h := simulate.OnDemand()
	if contender == connect.Warm {
		h = simulate.Warm()
	}
	alone, ok := r.Row(contender, 1)
	if !ok {
		return h, fmt.Errorf("the result has no connections of one client to %s", contender)
	}
	h.Start = alone.Time.Median / 1000
	if alone.Freed.Median > 0 {
		h.Free = alone.Freed.Median / 1000
	}
	clients, rate := 1, 0.0
	for _, s := range r.Series {
		if row, ok := r.Row(contender, s.Clients); ok && s.Clients > clients {
			clients, rate = s.Clients, row.Rate.Median
		}
	}
	if clients == 1 {
		return h, fmt.Errorf("the result has no connections of several clients to %s", contender)
	}
	h = h.Limited(clients, rate)
	if grown := r.GrownTo(); contender == connect.Ours && len(grown) > 1 {
		first, last := grown[0], grown[len(grown)-1]
		more := float64(last.Containers - first.Containers)
		h.RunningSlope = max(0, (last.Start.Median-first.Start.Median)/1000/more)
		h.FreeSlope = max(0, (r.Freed().Seconds()-h.Free)/float64(last.Containers-1))
	}
	return h, nil
}
