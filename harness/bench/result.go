package bench

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/lock"
)

// Result is what one run of the benchmark found. It is written as JSON.
type Result struct {
	Date         time.Time         `json:"date"`
	Name         string            `json:"name"` // of the spec
	Codename     string            `json:"codename"`
	Architecture string            `json:"architecture"` // Debian's name
	Packages     []lock.Entry      `json:"packages"`
	Download     int64             `json:"download"` // bytes of all .deb files
	Machine      Machine           `json:"machine"`
	Versions     map[string]string `json:"versions"` // by program, as it says itself
	Rounds       []Round           `json:"rounds"`

	Ratio      Summary `json:"ratio"` // of a cold build's time to that of mmdebstrap in the same round
	Cold       Summary `json:"cold"`  // this and the following in seconds
	Mmdebstrap Summary `json:"mmdebstrap"`
	Again      Summary `json:"again"`
	User       Summary `json:"user"`
}

// Round is one run of each kind, one after the other.
type Round struct {
	Load       float64 `json:"load"`       // of the machine before it
	Cold       Run     `json:"cold"`       // build from the packages
	Mmdebstrap Run     `json:"mmdebstrap"` // the same packages
	Again      Run     `json:"again"`      // build for which nothing has changed
	User       Run     `json:"user"`       // build with another user only
}

// Run is one program's run.
type Run struct {
	Seconds float64 `json:"seconds"` // by the clock on the wall
	CPU     float64 `json:"cpu"`     // seconds, of all cores
	Size    int64   `json:"size"`    // bytes of the tarball
	Steps   []Step  `json:"steps"`
}

// step is how long a step took, zero if there was none.
func (r Run) step(name string) float64 {
	for _, s := range r.Steps {
		if s.Name == name {
			return s.Seconds
		}
	}
	return 0
}

// Summary is what several measurements come to.
type Summary struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

// summarize returns the summary of at least one value. The median of an even number of
// values is the mean of the two in the middle.
func summarize(values []float64) Summary {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return Summary{v[0], (v[(n-1)/2] + v[n/2]) / 2, v[n-1]}
}

func (r *Result) sum() {
	over := func(of func(Round) float64) Summary {
		var values []float64
		for _, round := range r.Rounds {
			values = append(values, of(round))
		}
		return summarize(values)
	}
	r.Ratio = over(func(r Round) float64 { return r.Cold.Seconds / r.Mmdebstrap.Seconds })
	r.Cold = over(func(r Round) float64 { return r.Cold.Seconds })
	r.Mmdebstrap = over(func(r Round) float64 { return r.Mmdebstrap.Seconds })
	r.Again = over(func(r Round) float64 { return r.Again.Seconds })
	r.User = over(func(r Round) float64 { return r.User.Seconds })
}

// typical is the run of a kind whose time is the median, or the one below it: its steps
// add up, which medians of steps don't.
func (r *Result) typical(of func(Round) Run) Run {
	var runs []Run
	for _, round := range r.Rounds {
		runs = append(runs, of(round))
	}
	slices.SortFunc(runs, func(a, b Run) int { return cmp.Compare(a.Seconds, b.Seconds) })
	return runs[(len(runs)-1)/2]
}

// kind is a kind of run, with a typical one and what all of them come to.
type kind struct {
	Name string
	Summary
	Run
}

func (r *Result) kinds() []kind {
	return []kind{
		{"cold build", r.Cold, r.typical(func(r Round) Run { return r.Cold })},
		{"mmdebstrap, the same packages", r.Mmdebstrap, r.typical(func(r Round) Run { return r.Mmdebstrap })},
		{"build, nothing changed", r.Again, r.typical(func(r Round) Run { return r.Again })},
		{"build, another user only", r.User, r.typical(func(r Round) Run { return r.User })},
	}
}

// Text is a table for a terminal.
func (r *Result) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n%s\n\n", r.Name, r.set(), r.machine())
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name, form string, s Summary) {
		fmt.Fprintf(w, "%-30s\t"+form+"\t"+form+"\t"+form+"\t\n", name, s.Median, s.Min, s.Max)
	}
	fmt.Fprintf(w, "%-30s\tmedian\tleast\tmost\t\n", "")
	for _, k := range r.kinds() {
		row(k.Name, "%.2f s", k.Summary)
	}
	row("cold build / mmdebstrap", "%.2f", r.Ratio)
	w.Flush()
	for _, k := range r.kinds() {
		fmt.Fprintf(&b, "\n%s, %.2f s: ", k.Name, k.Seconds)
		for i, s := range k.Steps {
			if i > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "%s %.2f", s.Name, s.Seconds)
		}
	}
	b.WriteString("\n")
	return b.String()
}

func (r *Result) set() string {
	return fmt.Sprintf("%d packages of %s for %s, %d MiB", len(r.Packages), r.Codename, r.Architecture, r.Download>>20)
}

func (r *Result) machine() string {
	var loads []float64
	for _, round := range r.Rounds {
		loads = append(loads, round.Load)
	}
	load := summarize(loads)
	return fmt.Sprintf("%d cores, %.1f GiB, Linux %s, load before the rounds %.1f to %.1f",
		r.Machine.Cores, float64(r.Machine.Memory)/(1<<30), r.Machine.Kernel, load.Min, load.Max)
}

// Write writes a result as base.json, and as a page base.html.
func Write(base string, result any, page func(io.Writer) error) error {
	text, err := json.MarshalIndent(result, "", " ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(base+".json", append(text, '\n'), 0o644); err != nil {
		return err
	}
	var html bytes.Buffer
	if err := page(&html); err != nil {
		return err
	}
	return atomicfile.Write(base+".html", html.Bytes(), 0o644)
}
