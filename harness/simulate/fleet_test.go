package simulate

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"

	"ephemeral-builder/harness/simulate/queueing"
)

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if !(math.Abs(got-want) <= within) {
		t.Errorf("%s is %v, want %v, give or take %v", what, got, want, within)
	}
}

// steady has jobs at an even rate: so many busy servers are offered, by jobs of a mean of 1 s.
func steady(load float64, batch float64, length Lengths) Workload {
	return Workload{Jobs: load * Day / length.Mean(), Peak: 1, Pipeline: batch, Length: length}
}

func serve(t *testing.T, f Fleet, jobs []Job) []Served {
	t.Helper()
	served, err := f.Run(jobs, 1)
	if err != nil {
		t.Fatal(err)
	}
	return served
}

// batches are the means of of in some parts of what was served, without the first of them, in which
// the queue is filling. The error of their mean tells how far it is from the truth.
func batches(served []Served, parts int, of func(Served) float64) (mean, errorOf float64) {
	var means []float64
	for part := range slices.Chunk(served, (len(served)+parts-1)/parts) {
		sum := 0.0
		for _, s := range part {
			sum += of(s)
		}
		means = append(means, sum/float64(len(part)))
	}
	mean, deviation := stat.MeanStdDev(means[1:], nil)
	return mean, stat.StdErr(deviation, float64(len(means)-1))
}

// believable is how many standard errors a mean may be off: by chance alone it is once in ten
// thousand times.
const believable = 4

func waits(s Served) float64 { return s.Wait() }

func longer(than float64) func(Served) float64 {
	return func(s Served) float64 {
		if s.Wait() > than {
			return 1
		}
		return 0
	}
}

func TestErlangC(t *testing.T) {
	exponential := distuv.Exponential{Rate: 1}
	for _, test := range []struct {
		servers int
		load    float64
	}{{1, 0.5}, {2, 1.4}, {10, 7}, {10, 9}, {50, 45}} {
		jobs := steady(test.load, 1, exponential).Generate(1, 7)[:40000]
		for _, each := range []int{test.servers, 1, 3} { // hosts make no difference
			served := serve(t, Fleet{Slots: Even(test.servers, each), Policy: Balanced}, jobs)
			for _, than := range []float64{0, 0.2} {
				got, off := batches(served, 41, longer(than))
				near(t, "the share that waits", got, queueing.Longer(test.servers, test.load, than), believable*off)
			}
		}
	}
}

func TestOneServer(t *testing.T) {
	for _, test := range []struct {
		name               string
		length             Lengths
		load, batch, shape float64
	}{
		{"M/D/1 at 0.5", Constant(1), 0.5, 1, 0},
		{"M/D/1 at 0.8", Constant(1), 0.8, 1, 0},
		{"M/G/1 with lognormal lengths", Lognormal(1, 1.5), 0.5, 1, 1.25},
		{"M^X/M/1", distuv.Exponential{Rate: 1}, 0.5, 3, 1},
		{"M^X/D/1", Constant(1), 0.6, 4, 0},
	} {
		jobs := steady(test.load, test.batch, test.length).Generate(2, 11)
		if len(jobs) < 50000 {
			t.Fatalf("%s: only %d jobs", test.name, len(jobs))
		}
		got, off := batches(serve(t, Fleet{Slots: []int{1}, Policy: Balanced}, jobs), 41, waits)
		near(t, "the mean wait of "+test.name, got/test.length.Mean(), queueing.MeanWait(test.load, test.shape, test.batch), believable*off/test.length.Mean())
		if off > 0.2*got {
			t.Errorf("%s: the wait is %v, give or take %v: that can't fail", test.name, got, off)
		}
	}
}

// With slots for all the number of busy ones has a mean and a variance that are known.
func TestPeakedness(t *testing.T) {
	for _, length := range []Lengths{Constant(60), distuv.Exponential{Rate: 1.0 / 60}, Lognormal(40, 60)} {
		for _, batch := range []float64{1, 5} {
			w := steady(20, batch, length)
			served := serve(t, Fleet{Slots: []int{1e6}, Policy: Balanced}, w.Generate(8, 3))
			var at []float64
			for x := 3600.0; x < 8*Day; x += 120 {
				at = append(at, x)
			}
			var busy []float64
			for _, n := range Count(served, func(s Served) float64 { return s.Given }, func(s Served) float64 { return s.Freed }, at) {
				busy = append(busy, float64(n))
			}
			mean, variance := stat.MeanVariance(busy, nil)
			near(t, "the mean of busy slots", mean, w.Load(), 0.05*w.Load())
			near(t, "their peakedness", variance/mean, queueing.Peakedness(batch, length.Mean(), length.Quantile), 0.1*variance/mean)
		}
	}
}

// Jobs that come evenly and take less than the slots have never wait, those that take more wait
// longer and longer, and with one slot more each all is well: D/D/c.
func TestEven(t *testing.T) {
	var jobs []Job
	for i := range 1000 {
		jobs = append(jobs, Job{Arrival: float64(i), Length: 4.5})
	}
	for slots, want := range map[int]float64{5: 0, 4: 999 * 0.125} {
		served := serve(t, Fleet{Slots: Even(slots, 1), Policy: Balanced}, jobs)
		near(t, "the last job's wait", served[999].Wait(), want, 0.5)
	}
	near(t, "the work that four slots do", Summarize(serve(t, Fleet{Slots: []int{4}, Policy: Balanced}, jobs), 4, AllDay).Utilisation, 1, 0.01)
}

func busyDay() []Job { return Traced(1000).Generate(3, 5) }

func TestConservation(t *testing.T) {
	jobs := busyDay()
	for _, policy := range Policies {
		f := Fleet{Slots: []int{4, 8, 16, 2, 8, 8, 8, 8}, Host: OnDemand(), Policy: policy, Hop: 0.002}
		served := serve(t, f, jobs)
		if len(served) != len(jobs) {
			t.Fatalf("%s: %d of %d jobs were served", policy, len(served), len(jobs))
		}
		type change struct {
			at float64
			by int
		}
		changes := make([][]change, len(f.Slots))
		for i, s := range served {
			if s.Job != jobs[i] || !(s.Given >= s.Arrival && s.Begun > s.Given && s.Ended >= s.Begun && s.Freed > s.Ended) {
				t.Fatalf("%s: job %d %+v came back as %+v", policy, i, jobs[i], s)
			}
			near(t, "the length", s.Ended-s.Begun, s.Length, 1e-6)
			changes[s.Host] = append(changes[s.Host], change{s.Given, 1}, change{s.Freed, -1})
		}
		full := false
		for host, of := range changes {
			slices.SortFunc(of, func(a, b change) int {
				if a.at != b.at {
					return int(math.Copysign(1, a.at-b.at))
				}
				return a.by - b.by
			})
			used := 0
			for _, c := range of {
				used += c.by
				full = full || used == f.Slots[host]
				if used > f.Slots[host] || used < 0 {
					t.Fatalf("%s: host %d has %d of %d slots in use", policy, host, used, f.Slots[host])
				}
			}
			if used != 0 {
				t.Errorf("%s: host %d ends with %d slots in use", policy, host, used)
			}
		}
		if !full {
			t.Errorf("%s: no host was ever full: that proves nothing", policy)
		}
	}
}

func TestFirstComeFirstServed(t *testing.T) {
	jobs := busyDay()
	for _, policy := range []Policy{Balanced, Polled} {
		served := serve(t, Fleet{Slots: Even(40, 8), Host: OnDemand(), Policy: policy}, jobs)
		for i := 1; i < len(served); i++ {
			if served[i].Given < served[i-1].Given {
				t.Fatalf("%s: job %d was given a slot at %v, before the one that came earlier, at %v", policy, i, served[i].Given, served[i-1].Given)
			}
		}
		if Summarize(served, 40, AllDay).P95 == 0 {
			t.Errorf("%s: none waited: that proves nothing", policy)
		}
	}
	served := serve(t, Fleet{Slots: Even(40, 8), Host: OnDemand(), Policy: Scattered}, jobs)
	last := map[int]float64{}
	for _, s := range served {
		if s.Given < last[s.Host] {
			t.Fatalf("on host %d a job was overtaken", s.Host)
		}
		last[s.Host] = s.Given
	}
}

func TestDeterminism(t *testing.T) {
	jobs, again, other := Traced(300).Generate(2, 5), Traced(300).Generate(2, 5), Traced(300).Generate(2, 6)
	if !slices.Equal(jobs, again) || slices.Equal(jobs, other) {
		t.Error("the same seed gives other jobs, or another one the same")
	}
	for _, policy := range Policies {
		f := Fleet{Slots: Even(12, 4), Host: Warm(), Policy: policy}
		if a, b := serve(t, f, jobs), serve(t, f, jobs); !reflect.DeepEqual(a, b) {
			t.Errorf("%s: the same seed gives another result", policy)
		}
	}
	one, _ := Fleet{Slots: Even(12, 4), Policy: Scattered}.Run(jobs, 1)
	two, _ := Fleet{Slots: Even(12, 4), Policy: Scattered}.Run(jobs, 2)
	if reflect.DeepEqual(one, two) {
		t.Error("another seed scatters jobs the same way")
	}
}

func TestPoliciesRank(t *testing.T) {
	for _, seed := range []uint64{1, 2, 3} {
		jobs := Traced(1000).Generate(10, seed)
		var mean []float64
		for _, policy := range Policies {
			mean = append(mean, Summarize(serve(t, Fleet{Slots: Even(64, 8), Host: OnDemand(), Policy: policy}, jobs), 64, AllDay).Mean)
		}
		// A poll costs no more than its interval: one slot's wait for it, of the job's 27 minutes.
		if !(mean[0] < mean[1] && mean[1] < mean[0]+0.2*mean[0]+3 && 2*mean[1] < mean[2]) {
			t.Errorf("seed %d: the mean waits of %v are %v", seed, Policies, mean)
		}
	}
}

func TestPolls(t *testing.T) {
	// Three hosts poll at 0, 1 and 2 s, 3 and 4 and 5. A host takes what it has slots for, at once.
	served := serve(t, Fleet{Slots: []int{2, 2, 2}, Policy: Polled}, []Job{{0.5, 10}, {0.6, 10}, {0.7, 10}, {11.2, 1}})
	for i, want := range []struct {
		host  int
		given float64
	}{{1, 1}, {1, 1}, {2, 2}, {0, 12}} {
		if s := served[i]; s.Host != want.host || s.Given != want.given {
			t.Errorf("job %d was given to host %d at %v, want %+v", i, s.Host, s.Given, want)
		}
	}
	// One that becomes free learns of who waits with its next poll.
	served = serve(t, Fleet{Slots: []int{1}, Policy: Polled}, []Job{{1, 4}, {2, 4}})
	if got := served[1].Given; served[0].Ended != 7 || got != 9 {
		t.Errorf("the slot was free at %v, and given again at %v, want 7 and 9", served[0].Ended, got)
	}
}

func TestLeastConnections(t *testing.T) {
	served := serve(t, Fleet{Slots: []int{3, 3}, Policy: Balanced, Hop: 0.5}, []Job{{0, 9}, {0, 1}, {0, 9}, {2, 9}})
	for i, want := range []int{0, 1, 0, 1} {
		if served[i].Host != want {
			t.Errorf("job %d is on host %d, want %d", i, served[i].Host, want)
		}
	}
	if served[3].Begun != 2.5 {
		t.Errorf("with the balancer's half second it began at %v, want 2.5", served[3].Begun)
	}
}

func TestRunRefuses(t *testing.T) {
	for want, f := range map[string]Fleet{
		"needs a host":          {Policy: Balanced},
		"host 2 has 0 slots":    {Slots: []int{1, 0}, Policy: Balanced},
		`"least" is unknown`:    {Slots: []int{1}, Policy: "least"},
		"before the one before": {Slots: []int{1}, Policy: Balanced},
	} {
		if _, err := f.Run([]Job{{2, 1}, {1, 1}}, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestEvenSlots(t *testing.T) {
	if got := Even(10, 4); !slices.Equal(got, []int{4, 4, 2}) {
		t.Errorf("got %v", got)
	}
}
