package bench

import (
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"

	_ "embed"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"add": func(a, b float64) float64 { return a + b },
	"inc": func(i int) int { return i + 1 },
	"mib": func(bytes int64) int64 { return bytes >> 20 },
}).Parse(pageText))

// Places in the plots, in their own units: an image of 720 by as much as it needs.
const (
	plotLeft  = 126.0 // room for names
	plotRight = 690.0
	plotTop   = 14.0
	rowHeight = 46.0
)

// page writes a self-contained HTML page.
func (r *Result) page(w io.Writer) error {
	return pageTemplate.Execute(w, struct {
		*Result
		Set, Facts string
		Verdict    string
		Kinds      []kind
		Dots, Bars plot
		Legend     []group
	}{r, r.set(), r.machine(), r.verdict(), r.kinds(), r.dots(), r.bars(), groups})
}

// verdict says the ratio in words.
func (r *Result) verdict() string {
	percent := math.Round(math.Abs(1-r.Ratio.Median) * 100)
	switch {
	case percent == 0:
		return "as long as"
	case r.Ratio.Median < 1:
		return fmt.Sprintf("%.0f %% less time than", percent)
	}
	return fmt.Sprintf("%.0f %% more time than", percent)
}

// plot has rows over one axis of seconds that begins at zero.
type plot struct {
	Height, Axis float64 // of the image, and where the axis is
	Ticks        []tick
	Rows         []row
}

type tick struct {
	X    float64
	Text string
}

type row struct {
	Name  string
	Y     float64 // its middle
	Class string  // ours or theirs
	Label tick    // at the end of a bar, or at the median
	Dots  []tick  // runs; the text is for the pointer
	Parts []part  // of a bar
}

type part struct {
	X, Width float64
	Middle   float64
	Class    string
	Title    string // for the pointer
	Text     string // in it, empty if there is no room
}

// group is a kind of steps that share a colour.
type group struct {
	Class, Name string
	steps       []string
}

// groups are in the order of the legend. The last one has all other steps.
var groups = []group{
	{"extract", "extract without dpkg", []string{stepDecompress, stepExtract}},
	{"install", "unpack and configure with dpkg", []string{stepCore, stepUnpack, stepConfigure, stepEssential, stepRest}},
	{"save", "save for the next build", []string{stepSave}},
	{"pack", "pack and compress", []string{stepPack}},
	{"else", "everything else", nil},
}

func classOf(step string) string {
	for _, g := range groups {
		for _, name := range g.steps {
			if name == step {
				return g.Class
			}
		}
	}
	return groups[len(groups)-1].Class
}

// sides are the two that are compared.
func (r *Result) sides() []struct {
	name, class string
	kind        kind
	runs        []Run
} {
	var ours, theirs []Run
	for _, round := range r.Rounds {
		ours, theirs = append(ours, round.Cold), append(theirs, round.Mmdebstrap)
	}
	kinds := r.kinds()
	return []struct {
		name, class string
		kind        kind
		runs        []Run
	}{{"cold build", "ours", kinds[0], ours}, {"mmdebstrap", "theirs", kinds[1], theirs}}
}

// newPlot has room for n rows up to a number of seconds.
func newPlot(n int, most float64) (p plot, x func(float64) float64) {
	step := niceStep(most / 8)
	end := step * math.Ceil(most/step)
	x = func(seconds float64) float64 {
		return math.Round(10*(plotLeft+seconds/end*(plotRight-plotLeft))) / 10
	}
	p.Axis = plotTop + float64(n)*rowHeight
	p.Height = p.Axis + 38
	for i := 0; float64(i)*step <= end*1.0001; i++ {
		p.Ticks = append(p.Ticks, tick{x(float64(i) * step), fmt.Sprintf("%g", float64(i)*step)})
	}
	return p, x
}

// niceStep is the next of 1, 2, 5, 10, 20, … at or above least, or of 0.1, 0.2, 0.5.
func niceStep(least float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(least)))
	for _, f := range []float64{1, 2, 5} {
		if f*power >= least*0.9999 {
			return f * power
		}
	}
	return 10 * power
}

// dots shows each run.
func (r *Result) dots() plot {
	p, x := newPlot(2, max(r.Cold.Max, r.Mmdebstrap.Max)*1.08)
	for i, side := range r.sides() {
		row := row{Name: side.name, Class: side.class, Y: plotTop + (float64(i)+0.5)*rowHeight}
		for n, run := range side.runs {
			row.Dots = append(row.Dots, tick{x(run.Seconds), fmt.Sprintf("%s, round %d: %.2f s", side.name, n+1, run.Seconds)})
		}
		row.Label = tick{x(side.kind.Median), fmt.Sprintf("%.2f s", side.kind.Median)}
		p.Rows = append(p.Rows, row)
	}
	return p
}

// bars shows where the time of a typical run goes.
func (r *Result) bars() plot {
	sides := r.sides()
	p, x := newPlot(len(sides), max(sides[0].kind.Seconds, sides[1].kind.Seconds)*1.08)
	for i, side := range sides {
		row := row{Name: side.name, Class: side.class, Y: plotTop + (float64(i)+0.5)*rowHeight}
		at := 0.0
		for _, g := range groups {
			sum, steps := 0.0, []string{}
			for _, s := range side.kind.Steps {
				if classOf(s.Name) == g.Class {
					sum += s.Seconds
					steps = append(steps, fmt.Sprintf("%s %.2f s", s.Name, s.Seconds))
				}
			}
			if sum == 0 {
				continue
			}
			part := part{X: x(at), Width: x(at+sum) - x(at), Class: g.Class, Title: strings.Join(steps, ", ")}
			part.Middle = part.X + part.Width/2
			if part.Width > 30 {
				part.Text = fmt.Sprintf("%.1f", sum)
			}
			row.Parts = append(row.Parts, part)
			at += sum
		}
		row.Label = tick{x(at), fmt.Sprintf("%.1f s", at)}
		p.Rows = append(p.Rows, row)
	}
	return p
}
