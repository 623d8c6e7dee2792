package simulate

import (
	"math"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/gonum/stat"
)

func TestTraced(t *testing.T) {
	w := Traced(1000)
	near(t, "the mean length", w.Length.Mean(), 1604.5, 0.1)
	near(t, "the median", w.Length.Quantile(0.5), 720, 1e-6)
	near(t, "the 90th percentile, in minutes", w.Length.Quantile(0.9)/60, 61, 0.5)
	near(t, "the median of the longest, in hours", w.Length.Quantile(1-0.69/tracedJobs)/3600, 16, 0.5)
	near(t, "the load", w.Load(), 18.57, 0.01)
	near(t, "the rate at noon, to the mean", w.Rate(noon+Day)/(w.Jobs/Day), w.Peak, 1e-9)
	load, at := w.Busiest()
	near(t, "the highest load, which is somewhat below that of the highest rate", load, 0.95*w.Load()*w.Peak, 0.01*w.Load()*w.Peak)
	near(t, "its hour, which is later", at/3600, 13.75, 0.3)
	near(t, "the load at that hour", w.LoadAt(at+Day), load, 1e-9)
	mean := 0.0
	for hour := range 24 {
		mean += w.LoadAt(3600*float64(hour)) / 24
	}
	near(t, "the mean of the load", mean, w.Load(), 0.01*w.Load())
	steady := steady(5, 1, w.Length)
	load, _ = steady.Busiest()
	near(t, "a steady load", load, 5, 0.02)
	// What comes is the sum of the rate, across midnights.
	sum := 0.0
	for at := -Day; at < 1.7*Day; at += 60 {
		sum += 60 * w.Rate(at+2*Day+30)
	}
	near(t, "the sum of the rate", w.come(1.7*Day)-w.come(-Day), sum, 1e-3*sum)
	shorter := Shorter()
	near(t, "the shorter median", shorter.Quantile(0.5), 240, 1e-6)
	near(t, "those within ten minutes", shorter.CDF(600), 0.8, 1e-4)
}

// A week has as many jobs at the same time as the published one: 3 in the median, 19 in the 90th
// percentile, 34 at most.
func TestTracedConcurrency(t *testing.T) {
	const weekend = 0.1
	var middle, high, most []float64
	for seed := range uint64(30) {
		w := Traced(tracedJobs / (5 + 2*weekend))
		jobs := w.Generate(5, seed)
		w.Jobs *= weekend
		for _, job := range w.Generate(2, seed+1000) {
			job.Arrival += 5 * Day
			jobs = append(jobs, job)
		}
		served := serve(t, Fleet{Slots: []int{34}, Policy: Balanced}, jobs)
		var at []float64
		for x := 0.0; x < 7*Day; x += 60 { // as the report's window
			at = append(at, x)
		}
		running := Count(served, func(s Served) float64 { return s.Begun }, func(s Served) float64 { return s.Ended }, at)
		slices.Sort(running)
		n := len(running)
		middle, high, most = append(middle, float64(running[n/2])), append(high, float64(running[n*9/10])), append(most, float64(running[n-1]))
	}
	near(t, "the median", stat.Mean(middle, nil), 3, 1)
	near(t, "the 90th percentile", stat.Mean(high, nil), 19, 2)
	near(t, "the most", stat.Mean(most, nil), 34, 0.5)
}

func TestGenerate(t *testing.T) {
	w := Traced(2000)
	const days = 50
	jobs := w.Generate(days, 4)
	near(t, "the number of jobs", float64(len(jobs))/days, w.Jobs, 0.03*w.Jobs)
	hours := make([]float64, 24)
	var lengths []float64
	pipelines := 0
	for i, job := range jobs {
		hours[int(job.Arrival/3600)%24] += 1.0 / days
		lengths = append(lengths, job.Length)
		if i == 0 || job.Arrival != jobs[i-1].Arrival {
			pipelines++
		}
	}
	near(t, "the jobs of a pipeline", float64(len(jobs))/float64(pipelines), w.Pipeline, 0.03*w.Pipeline)
	near(t, "the mean length", stat.Mean(lengths, nil), w.Length.Mean(), 0.03*w.Length.Mean())
	for hour, got := range hours {
		want := 3600 * w.Rate(3600*float64(hour)+1800)
		// Whole pipelines come by chance: so many times as much as single jobs.
		deviation := math.Sqrt(want * (2*w.Pipeline - 1) / days)
		near(t, "the jobs of an hour", got, want, believable*deviation)
	}
	w.Peak, w.Pipeline = 1, 1
	jobs = w.Generate(days, 4)
	var gaps []float64
	for i := range jobs[1:] {
		gaps = append(gaps, jobs[i+1].Arrival-jobs[i].Arrival)
	}
	mean, deviation := stat.MeanStdDev(gaps, nil)
	near(t, "the variability of gaps without a cycle or bursts", deviation/mean, 1, 0.03)
}

func TestValidate(t *testing.T) {
	if err := Traced(10).Validate(); err != nil {
		t.Error(err)
	}
	for want, w := range map[string]Workload{
		"there must be some": {Peak: 1, Pipeline: 1, Length: Constant(1)},
		"must be 1 to 3":     {Jobs: 1, Peak: 4, Pipeline: 1, Length: Constant(1)},
		"at least 1":         {Jobs: 1, Peak: 1, Pipeline: 0.5, Length: Constant(1)},
		"must have a length": {Jobs: 1, Peak: 1, Pipeline: 1},
	} {
		if err := w.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
