package simulate

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// Window is a part of each day, from one time to a later one, in seconds.
type Window struct{ From, To float64 }

// AllDay is all of each day.
var AllDay = Window{0, Day}

// Hour is the hour around a moment, in seconds.
func Hour(around float64) Window { return Window{around - 1800, around + 1800} }

func (w Window) has(at float64) bool {
	of := math.Mod(at, Day)
	return w.From <= of && of < w.To
}

// until is how much of the time up to a moment is in the window.
func (w Window) until(at float64) float64 {
	days := math.Floor(at / Day)
	return days*(w.To-w.From) + max(0, min(at-days*Day, w.To)-w.From)
}

// Summary is what jobs and slots had of it.
type Summary struct {
	Jobs        int     `json:"jobs"`
	Mean        float64 `json:"mean"` // wait for a slot, seconds, as are the next three
	P50         float64 `json:"p50"`
	P95         float64 `json:"p95"`
	P99         float64 `json:"p99"`
	Over10      float64 `json:"over10"`      // share of jobs that wait longer than 10 s
	Over60      float64 `json:"over60"`      // and than 60 s
	Utilisation float64 `json:"utilisation"` // share of the slots' time, from start to freed, up to the last arrival
}

// Summarize looks at the jobs that come in a window to a fleet with so many slots, and at how busy
// those are in it.
func Summarize(served []Served, slots int, in Window) Summary {
	var s Summary
	if len(served) == 0 {
		return s
	}
	from, to := served[0].Arrival, served[len(served)-1].Arrival
	busy := 0.0
	for _, s := range served {
		busy += in.until(min(s.Freed, to)) - in.until(min(s.Given, to))
	}
	if time := in.until(to) - in.until(from); time > 0 {
		s.Utilisation = busy / float64(slots) / time
	}
	waits := Waits(served, in)
	if s.Jobs = len(waits); s.Jobs == 0 {
		return s
	}
	s.Mean = stat.Mean(waits, nil)
	s.P50, s.P95, s.P99 = quantile(waits, 0.5), quantile(waits, 0.95), quantile(waits, 0.99)
	s.Over10, s.Over60 = Longer(waits, 10), Longer(waits, 60)
	return s
}

func quantile(sorted []float64, p float64) float64 {
	return stat.Quantile(p, stat.Empirical, sorted, nil)
}

// Waits are the times that the jobs that come in a window waited for a slot, in seconds, the
// shortest first.
func Waits(served []Served, in Window) (waits []float64) {
	for _, s := range served {
		if in.has(s.Arrival) {
			waits = append(waits, s.Wait())
		}
	}
	slices.Sort(waits)
	return waits
}

// Longer is the share of waits, the shortest first, that are longer than some seconds.
func Longer(waits []float64, than float64) float64 {
	at, _ := slices.BinarySearchFunc(waits, than, func(wait, than float64) int {
		if wait <= than {
			return -1
		}
		return 1
	})
	return float64(len(waits)-at) / float64(len(waits))
}

// Count is how many jobs are between two of their moments at each of some times, in seconds: those
// that run between Given and Freed, those that wait between Arrival and Given.
func Count(served []Served, from, to func(Served) float64, at []float64) []int {
	var begins, ends []float64
	for _, s := range served {
		begins, ends = append(begins, from(s)), append(ends, to(s))
	}
	slices.Sort(begins)
	slices.Sort(ends)
	counts := make([]int, len(at))
	for i, t := range at {
		// Those that have begun before, without those that have ended before.
		begun, _ := slices.BinarySearch(begins, t)
		ended, _ := slices.BinarySearch(ends, t)
		counts[i] = begun - ended
	}
	return counts
}
