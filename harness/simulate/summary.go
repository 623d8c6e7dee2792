package simulate

import (
	"slices"

	"gonum.org/v1/gonum/stat"
)

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

// Summarize looks at the jobs of a fleet with so many slots.
func Summarize(served []Served, slots int) Summary {
	if len(served) == 0 {
		return Summary{}
	}
	waits := Waits(served)
	from, to := served[0].Arrival, served[len(served)-1].Arrival
	busy := 0.0
	for _, s := range served {
		busy += max(0, min(s.Freed, to)-min(s.Given, to))
	}
	s := Summary{
		Jobs: len(waits), Mean: stat.Mean(waits, nil),
		P50: quantile(waits, 0.5), P95: quantile(waits, 0.95), P99: quantile(waits, 0.99),
		Over10: Longer(waits, 10), Over60: Longer(waits, 60),
	}
	if to > from {
		s.Utilisation = busy / float64(slots) / (to - from)
	}
	return s
}

func quantile(sorted []float64, p float64) float64 {
	return stat.Quantile(p, stat.Empirical, sorted, nil)
}

// Waits are the times that jobs waited for a slot, in seconds, the shortest first.
func Waits(served []Served) []float64 {
	waits := make([]float64, len(served))
	for i, s := range served {
		waits[i] = s.Wait()
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
