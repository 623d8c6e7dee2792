// Package connect is what the benchmark of connections found: how long it takes from the dial
// to the end of a first command, for ephemeral-builder and for others that do the like.
// Package plan has measured it.
//
// What is compared is compared within a round, as the ratio of two connections that were
// moments apart: a machine that is busy or throttled slows both. Medians have an interval that
// holds the true one with 95 % confidence, whatever the distribution; differences between two
// results are judged by the Mann-Whitney U test, as benchstat does. Both are
// golang.org/x/perf/benchmath's.
package connect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/perf/benchmath"

	"ephemeral-builder/harness/bench"
	"ephemeral-builder/harness/bench/plan"
)

// Result is one run of the benchmark. It is written as JSON.
type Result struct {
	Date       time.Time     `json:"date"`
	Machine    bench.Machine `json:"machine"`
	Lab        string        `json:"lab"`     // its kind and suite
	Systemd    string        `json:"systemd"` // of the lab host, as it says itself
	OpenSSH    string        `json:"openssh"` // of the image
	Commit     string        `json:"commit,omitempty"`
	Contenders []Contender   `json:"contenders"`
	Series     []Series      `json:"series"` // by number of clients
	Traces     []Trace       `json:"traces,omitempty"`
	Growth     []plan.Level  `json:"growth,omitempty"` // from no container on
	Jobs       []Job         `json:"jobs,omitempty"`
}

// Contender is who takes part.
type Contender struct {
	Name    string `json:"name"`
	About   string `json:"about"`
	Skipped string `json:"skipped,omitempty"` // why it did not
}

// Series are the connections of one number of clients.
type Series struct {
	Clients int           `json:"clients"`
	Samples []plan.Sample `json:"samples"`
}

// The names of contenders that others are compared with, or that stand for us.
const (
	Floor  = "floor"
	Ours   = "ephemeral-builder"
	Warm   = "warm"
	Chroot = "chroot"

	Balanced = "balanced" // Ours, behind a balancer
)

// confidence of all intervals, and of the differences that are told.
const confidence = 0.95

// Estimate is a median, with the interval that holds the true one, or with the least and the
// most of fewer than six.
type Estimate struct{ Median, Low, High float64 }

func estimate(values []float64) Estimate {
	if len(values) == 0 {
		return Estimate{}
	}
	if len(values) < 6 {
		// Too few for an interval at that confidence: all of them.
		return Estimate{median(values), slices.Min(values), slices.Max(values)}
	}
	s := benchmath.AssumeNothing.Summary(sample(values), confidence)
	return Estimate{s.Center, s.Lo, s.Hi}
}

func sample(values []float64) *benchmath.Sample {
	return benchmath.NewSample(slices.Clone(values), &benchmath.DefaultThresholds)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// times are those of a contender's connections that worked, in milliseconds.
func (s Series) times(contender string, of func(plan.Sample) time.Duration) []float64 {
	var values []float64
	for _, x := range s.Samples {
		if x.Contender == contender && x.Error == "" {
			values = append(values, milliseconds(of(x)))
		}
	}
	return values
}

func done(s plan.Sample) time.Duration { return s.Done }

// failures counts a contender's connections that did not work, and returns one's error.
func (s Series) failures(contender string) (count int, first string) {
	for _, x := range s.Samples {
		if x.Contender == contender && x.Error != "" {
			if count++; first == "" {
				first = x.Error
			}
		}
	}
	return count, first
}

// ratios are those of two contenders' medians, round by round.
func (s Series) ratios(contender, to string) []float64 {
	return s.perRound(func(round []plan.Sample) (float64, bool) {
		one := Series{Samples: round}
		a, b := one.times(contender, done), one.times(to, done)
		if len(a) == 0 || len(b) == 0 {
			return 0, false
		}
		return median(a) / median(b), true
	})
}

// differences are how much longer one contender takes than another, in milliseconds, of medians
// round by round.
func (s Series) differences(contender, than string) []float64 {
	return s.perRound(func(round []plan.Sample) (float64, bool) {
		one := Series{Samples: round}
		a, b := one.times(contender, done), one.times(than, done)
		if len(a) == 0 || len(b) == 0 {
			return 0, false
		}
		return median(a) - median(b), true
	})
}

// rates are how many connections a contender ended in a second, round by round.
func (s Series) rates(contender string) []float64 {
	return s.perRound(func(round []plan.Sample) (float64, bool) {
		var from, to time.Time
		count := 0
		for _, x := range round {
			if x.Contender != contender || x.Error != "" {
				continue
			}
			if end := x.Start.Add(x.Done); count == 0 || end.After(to) {
				to = end
			}
			if count == 0 || x.Start.Before(from) {
				from = x.Start
			}
			count++
		}
		return float64(count) / to.Sub(from).Seconds(), count > 0
	})
}

// rateRatios are those of two contenders' rates, round by round.
func (s Series) rateRatios(contender, to string) []float64 {
	return s.perRound(func(round []plan.Sample) (float64, bool) {
		one := Series{Samples: round}
		a, b := one.rates(contender), one.rates(to)
		if len(a) == 0 || len(b) == 0 {
			return 0, false
		}
		return a[0] / b[0], true
	})
}

// processor is what a connection takes of the machine's cores in milliseconds, and the share of
// them that was busy. It is a mean: a turn of one connection is only some ticks long.
func (s Series) processor(contender string) (each, share float64) {
	var busy, idle time.Duration
	count := 0
	for _, x := range s.Samples {
		if x.Contender == contender {
			busy, idle, count = busy+x.Busy, idle+x.Idle, count+1
		}
	}
	if busy+idle == 0 {
		return 0, 0
	}
	return milliseconds(busy) / float64(count), 100 * float64(busy) / float64(busy+idle)
}

func (s Series) perRound(of func([]plan.Sample) (float64, bool)) []float64 {
	rounds := map[int][]plan.Sample{}
	var numbers []int
	for _, x := range s.Samples {
		if rounds[x.Round] == nil {
			numbers = append(numbers, x.Round)
		}
		rounds[x.Round] = append(rounds[x.Round], x)
	}
	var values []float64
	for _, number := range numbers {
		if value, ok := of(rounds[number]); ok {
			values = append(values, value)
		}
	}
	return values
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile is by linear interpolation, R-7.
func quantile(values []float64, q float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return 0
	}
	at := q * float64(len(v)-1)
	i := int(at)
	if i+1 >= len(v) {
		return v[len(v)-1]
	}
	return v[i] + (at-float64(i))*(v[i+1]-v[i])
}

// Row is a contender in a table.
type Row struct {
	Contender
	Count, Failed int
	Failure       string
	Time          Estimate // milliseconds
	P99           float64  // milliseconds
	Freed         Estimate // milliseconds; zero if it was not measured
	ToFloor       Estimate
	Rate          Estimate // connections in a second
	ToChroot      Estimate // of rates
	CPU           float64  // milliseconds of a core for each connection, whoever spent them
	Busy          float64  // share of all cores' time, in per cent
}

// rows are those of a series.
func (r *Result) rows(s Series) []Row {
	var rows []Row
	for _, c := range r.Contenders {
		row := Row{Contender: c}
		times := s.times(c.Name, done)
		row.Count = len(times)
		row.Failed, row.Failure = s.failures(c.Name)
		row.Time, row.P99 = estimate(times), quantile(times, 0.99)
		row.Freed = estimate(slices.DeleteFunc(s.times(c.Name, func(s plan.Sample) time.Duration { return s.Freed }), func(ms float64) bool { return ms == 0 }))
		row.ToFloor = estimate(s.ratios(c.Name, Floor))
		row.Rate, row.ToChroot = estimate(s.rates(c.Name)), estimate(s.rateRatios(c.Name, Chroot))
		row.CPU, row.Busy = s.processor(c.Name)
		rows = append(rows, row)
	}
	return rows
}

// Row is that of a contender with a number of clients, if it took part.
func (r *Result) Row(contender string, clients int) (row Row, ok bool) {
	for _, s := range r.Series {
		if s.Clients != clients {
			continue
		}
		for _, row := range r.rows(s) {
			if row.Name == contender && row.Count > 0 {
				return row, true
			}
		}
	}
	return Row{}, false
}

// Facts say what the figures depend on, a line.
func (r *Result) Facts() string {
	return fmt.Sprintf("%s, %s, %s, %d cores, %.1f GiB, Linux %s",
		r.Lab, r.Systemd, r.OpenSSH, r.Machine.Cores, float64(r.Machine.Memory)/(1<<30), r.Machine.Kernel)
}

// Text is a table for a terminal.
func (r *Result) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.Facts())
	for _, s := range r.Series {
		clients := "one client"
		if s.Clients > 1 {
			clients = fmt.Sprintf("%d clients", s.Clients)
		}
		fmt.Fprintf(&b, "\n%s, milliseconds from the dial to the end of true, with 95 %% intervals\n", clients)
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(w, "\tp50\t\tp99\tto the floor\t\tper second\tto chroot\t\tCPU\tbusy\t\n")
		for _, row := range r.rows(s) {
			if row.Skipped != "" {
				continue
			}
			fmt.Fprintf(w, "%s\t%.1f\t%.1f-%.1f\t%.1f\t%.2f\t%.2f-%.2f\t%.1f\t%.2f\t%.2f-%.2f\t%.1f\t%.0f %%\t\n", row.Name, row.Time.Median, row.Time.Low, row.Time.High,
				row.P99, row.ToFloor.Median, row.ToFloor.Low, row.ToFloor.High, row.Rate.Median, row.ToChroot.Median, row.ToChroot.Low, row.ToChroot.High,
				row.CPU, row.Busy)
		}
		w.Flush()
		for _, row := range r.rows(s) {
			if row.Freed.Median > 0 {
				fmt.Fprintf(&b, "%s: %.1f ms (%.1f-%.1f) from the close until its slot is free again\n", row.Name, row.Freed.Median, row.Freed.Low, row.Freed.High)
			}
			if more := estimate(s.differences(Balanced, Ours)); row.Name == Balanced && row.Count > 0 {
				fmt.Fprintf(&b, "%s: %.1f ms (%.1f to %.1f) more than without the balancer\n", row.Name, more.Median, more.Low, more.High)
			}
			if row.Failed > 0 {
				fmt.Fprintf(&b, "%s: %d of %d connections failed, the first: %s\n", row.Name, row.Failed, row.Failed+row.Count, row.Failure)
			}
		}
	}
	b.WriteString(r.traceText())
	b.WriteString(r.growthText())
	b.WriteString(r.jobsText())
	for _, c := range r.Contenders {
		if c.Skipped != "" {
			fmt.Fprintf(&b, "%s: skipped: %s\n", c.Name, c.Skipped)
		}
	}
	return b.String()
}

// Read reads a result that [Result.Write] wrote.
func Read(path string) (*Result, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := new(Result)
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(r); err != nil {
		return nil, fmt.Errorf("%s is no result of this benchmark: %w", path, err)
	}
	return r, nil
}

// Write writes base.json and base.html.
func (r *Result) Write(base string) error { return bench.Write(base, r, r.page) }
