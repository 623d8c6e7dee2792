package simulate

import "testing"

// closed has clients that connect again once their connection is done, without a pause, as the benchmark
// has, to its sixteen slots, and returns how many connections they made in a second.
func closed(t *testing.T, h Host, clients, each int) float64 {
	t.Helper()
	// A client's next connection comes when the last one has ended: by the simulation so far.
	next := make([]float64, clients)
	var jobs []Job
	var served []Served
	for range clients * each {
		first := 0
		for c := range next {
			if next[c] < next[first] {
				first = c
			}
		}
		jobs = append(jobs, Job{Arrival: next[first]})
		served = serve(t, Fleet{Slots: []int{16}, Host: h, Policy: Balanced}, jobs)
		next[first] = served[len(served)-1].Ended
	}
	to := 0.0
	for _, s := range served {
		to = max(to, s.Ended)
	}
	return float64(len(served)) / to
}

func TestClosedLoop(t *testing.T) {
	for name, test := range map[string]struct {
		host      Host
		alone, at float64 // connections in a second, of one client and of eight
	}{
		"on demand": {OnDemand(), 1 / 0.0617, 21.2},
		"warm":      {Warm(), 1 / 0.0365, 28.5},
	} {
		near(t, name+", one client", closed(t, test.host, 1, 50), test.alone, 0.01*test.alone)
		near(t, name+", eight clients, by formula", test.host.Starts(8), test.at, 1e-9)
		// The first eight find a host that is idle, the last one that gets idle.
		near(t, name+", eight clients", closed(t, test.host, 8, 50), test.at, 0.1*test.at)
	}
}

func TestHost(t *testing.T) {
	h := OnDemand()
	near(t, "the slowdown by each other, which is a share of the cores' 92 ms", h.StartSlope, 0.092/2, 0.002)
	near(t, "the start of the last of 256", h.start(1, 255)-h.start(1, 0), 0.009, 1e-9)
	near(t, "the end of 256 at once", h.free(256), 4.5, 1e-9)
	if got := h.Limited(1, 1); got.StartSlope != 0 {
		t.Errorf("one client alone makes a slope of %v", got.StartSlope)
	}
}
