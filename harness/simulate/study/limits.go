package study

import (
	"fmt"
	"math"
)

// What limits depend on besides the simulation.
const (
	published = 150 << 20 // bytes of an image as it is published: the README's default one
	link      = 1e9 / 8   // bytes in a second from the web server: an assumption
	within    = 30 * 60   // seconds over which hosts look for updates: RandomizedDelaySec= of their timer
	poll      = 3.0       // seconds between a host's questions at GitLab: check_interval
	files     = 1 << 20   // that Linux lets a process have open at most, by default: fs.nr_open
	tolerated = 0.05      // of the slots, that it may cost to have two fleets instead of one
)

// Limit is something else than slots that makes a fleet as it is no longer sensible.
type Limit struct {
	What  string `json:"what"`
	Hosts int    `json:"hosts,omitempty"` // from which on; 0 where their number does not matter, or no limit is known
	Why   string `json:"why"`
}

// limits are in hosts of the same size, with the same jobs. They are arithmetic, not simulated.
func (r *Result) limits() []Limit {
	// Of a host whose slots are full all the time.
	each := float64(r.Each) / r.Mean // jobs in a second
	balancer := 1 / hop
	load := 1.0
	for r.Rule.split(load) > tolerated {
		load++
	}
	starts := r.Host.Starts(8)
	return []Limit{
		{"one fleet rather than two", (r.Rule.Slots(load) + r.Each - 1) / r.Each,
			fmt.Sprintf("from %.0f jobs at once on, two fleets with half of them each, and each with a balancer of its own, need at most %.0f %% more slots", load, 100*tolerated)},
		{"the web server with the images", int(math.Floor(within * link / published)),
			fmt.Sprintf("%d MiB for each host at 1 Gbit/s (assumed), within the %d minutes over which hosts look for a new image", published>>20, within/60)},
		{"the balancer's connections", files / 2 / r.Each,
			fmt.Sprintf("two files for each job, of the %d that Linux lets a process have by default", files)},
		{"the balancer's time", int(balancer / each),
			fmt.Sprintf("%.0f connections in a second, if each took %.0f ms of it, one after the other (assumed); a full host takes one every %.0f s", balancer, 1000*hop, 1/each)},
		{"GitLab's queue", 0,
			fmt.Sprintf("hosts ask every %.0f s, also for nothing: 1000 of them are %.0f requests in a second; what a GitLab bears was not measured", poll, 1000/poll)},
		{"a host's own starts", 0,
			fmt.Sprintf("%.1f in a second: they limit it before its slots do only with jobs shorter than %.1f s", starts, float64(r.Each)/starts)},
	}
}
