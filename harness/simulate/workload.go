package simulate

import (
	"fmt"
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/integrate/quad"
	"gonum.org/v1/gonum/stat/distuv"
)

// Day is the length of the cycle of arrivals, in seconds.
const Day = 86400.0

// Lengths is the distribution of how long jobs take, in seconds. Those of gonum's distuv have
// these methods.
type Lengths interface {
	Mean() float64
	Quantile(p float64) float64
}

// Constant are jobs of one length, in seconds.
type Constant float64

func (c Constant) Mean() float64            { return float64(c) }
func (c Constant) Quantile(float64) float64 { return float64(c) }

// Lognormal is the lognormal distribution with a median and a mean, in seconds.
func Lognormal(median, mean float64) distuv.LogNormal {
	return distuv.LogNormal{Mu: math.Log(median), Sigma: math.Sqrt(2 * math.Log(mean/median))}
}

// Figures of a GitLab with runners of its own, of 7 days in July 2024: 2552 jobs took 68246
// minutes, the median 12 and the 90th percentile 68; at the same time ran 3 in the median, 19 in
// the 90th percentile, 34 at most. It is the report of GitHub's Actions Importer, read in full, in
// github.com/alan-forbes-cp/import, ComputeAorta/forecast/forecast_report.md, at 539c6bd8.
const (
	tracedJobs   = 2552
	tracedTotal  = 68246 * 60.0 // seconds
	tracedMedian = 12 * 60.0    // seconds
)

// Workload says when jobs come, and how long they take. All its times are seconds.
type Workload struct {
	Jobs     float64 // in a day of 24 hours, the mean
	Peak     float64 // of the busiest moment, to the mean of the day: 1, without a cycle, to 3
	Pipeline float64 // jobs that come at the same moment, the mean of a geometric distribution; 1 is without bursts
	Length   Lengths
}

// Traced is a working day with the shape of the published figures above.
//
//   - Lengths are from there: lognormal with that median and mean. Their 90th percentile is then 61
//     minutes, where 68 were measured, and the longest of as many jobs 16 hours in the median, where
//     18 were measured.
//   - Peak and Pipeline are not, and an assumption: they were chosen so that a week of five such
//     days and two with a tenth of their jobs has as many jobs at the same time as the trace. That
//     pipelines have a geometric number of jobs, and that they all come at once, is an assumption,
//     too: stages come one after the other, so that bursts are smaller than here.
//   - Others saw a flatter day. Mozilla, with people in all time zones, had 358 pushes a day in
//     February 2015 and 23.18 in the busiest hour, which is a Peak of 1.55; read in a summary of its
//     blog, https://engineered.at/articles/mozilla-pushes-february-2015.
//   - Others had shorter jobs. Of 30 million workflows on CircleCI 80 % ended within 10 minutes, says
//     its report of 2019, of which the summary was read, https://www.scribd.com/document/517361020; the
//     median in 2020 was below 4, say slides of a talk, http://speaking.jmeiss.me/UY3Nct/slides: see
//     [Shorter].
func Traced(jobs float64) Workload {
	return Workload{Jobs: jobs, Peak: 2.4, Pipeline: 8, Length: Lognormal(tracedMedian, tracedTotal/tracedJobs)}
}

// Shorter are lengths of which half are below 4 minutes and 80 % below 10, as CircleCI's were,
// see [Traced]; that they are lognormal, and that jobs are as long as workflows, is an assumption.
func Shorter() distuv.LogNormal {
	const z80 = 0.8416 // of the normal distribution
	return distuv.LogNormal{Mu: math.Log(240), Sigma: math.Log(600/240.0) / z80}
}

// Validate returns an error that names what can't be simulated.
func (w Workload) Validate() error {
	switch {
	case !(w.Jobs > 0):
		return fmt.Errorf("%v jobs a day: there must be some", w.Jobs)
	case !(w.Peak >= 1 && w.Peak <= 3):
		return fmt.Errorf("the busiest moment has %v times the mean of the day: it must be 1 to 3", w.Peak)
	case !(w.Pipeline >= 1):
		return fmt.Errorf("%v jobs in a pipeline: there must be at least 1", w.Pipeline)
	case w.Length == nil || !(w.Length.Mean() > 0):
		return fmt.Errorf("jobs must have a length")
	}
	return nil
}

// Load is the offered load in Erlang, the mean of the day: how many slots would be busy if there
// were always one free.
func (w Workload) Load() float64 { return w.Jobs / Day * w.Length.Mean() }

// LoadAt is the offered load in Erlang at a time of the day in seconds: how many slots would be busy
// in the mean if there were always one free. It follows the rate, later and less steeply, as jobs that
// began before are still running.
func (w Workload) LoadAt(at float64) float64 {
	// Of jobs of one length those are busy that came within it.
	return quad.Fixed(func(p float64) float64 { return w.come(at) - w.come(at-w.Length.Quantile(p)) }, 0, 1, 500, quad.Legendre{}, 0)
}

// Busiest is the highest offered load of the day in Erlang, and its time in seconds.
func (w Workload) Busiest() (load, at float64) {
	for time := noon; time < noon+width/2; time += 900 {
		if now := w.LoadAt(time); now > load {
			load, at = now, time
		}
	}
	return load, at
}

// The day has its busiest moment at 13 o'clock, and more jobs than at night for eight hours before
// and after: an assumption, as is that the rate is a cosine there.
const (
	noon  = 13 * 3600.0
	width = 16 * 3600.0
)

// Rate is that of jobs in a second, at a time of the day in seconds.
func (w Workload) Rate(at float64) float64 {
	// The hump has a mean of 1 over the day, and is 3 at its top.
	hump := 0.0
	if off := math.Mod(at, Day) - noon; math.Abs(off) < width/2 {
		hump = Day / width * (1 + math.Cos(2*math.Pi*off/width))
	}
	return w.Jobs / Day * (1 + w.share()*(hump-1))
}

// share is that of jobs that make the hump.
func (w Workload) share() float64 { return (w.Peak - 1) / 2 }

// come is how many jobs come up to a time in the mean, in seconds since a midnight or before it: the
// integral of Rate.
func (w Workload) come(to float64) float64 {
	days := math.Floor(to / Day)
	off := min(max(to-days*Day-noon, -width/2), width/2)
	humps := days + 1/width*(off+width/2+width/(2*math.Pi)*math.Sin(2*math.Pi*off/width))
	return w.Jobs * (to/Day + w.share()*(humps-to/Day))
}

// Job is one that comes.
type Job struct {
	Arrival float64 // seconds since the midnight that the simulation begins at
	Length  float64 // seconds, from the first command to the end of the connection
}

// Generate makes the jobs of some days, in the order of their arrival: pipelines come as a Poisson
// process whose rate follows the day. The same seed gives the same jobs.
func (w Workload) Generate(days int, seed uint64) []Job {
	rng := rand.New(rand.NewPCG(seed, 1))
	jobs := make([]Job, 0, int(1.1*w.Jobs*float64(days)))
	most := w.Jobs / Day * w.Peak
	for at := 0.0; ; {
		// By thinning: Poisson at the highest rate, of which each stays by its moment's rate.
		at += rng.ExpFloat64() * w.Pipeline / most
		if at >= Day*float64(days) {
			return jobs
		}
		if rng.Float64()*most >= w.Rate(at) {
			continue
		}
		for range geometric(rng, w.Pipeline) {
			jobs = append(jobs, Job{Arrival: at, Length: w.Length.Quantile(rng.Float64())})
		}
	}
}

// geometric draws from 1, 2, 3, … with a mean.
func geometric(rng *rand.Rand, mean float64) int {
	if mean == 1 {
		return 1
	}
	return 1 + int(math.Log(1-rng.Float64())/math.Log1p(-1/mean))
}
