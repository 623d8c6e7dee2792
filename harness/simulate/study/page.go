package study

import (
	"fmt"
	"html/template"
	"image/color"
	"io"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"ephemeral-builder/harness/bench/chart"

	_ "embed"
)

//go:embed page.html
var pageText string

// page writes a self-contained HTML page.
func (r *Result) page(w io.Writer) error {
	parsed, err := chart.Page(pageText, template.FuncMap{
		"count": count, "duration": duration, "percent": percent,
		"percentOf": func(share float64) float64 { return 100 * share },
		"minutes":   func(seconds float64) float64 { return seconds / 60 },
		"ms":        func(seconds float64) float64 { return seconds * 1000 },
	})
	if err != nil {
		return err
	}
	data := struct {
		*Result
		Slots, Asked                   int
		NeedsPlot, LoadPlot, SharePlot template.HTML
		PolicyPlot, TimelinePlot       template.HTML
	}{Result: r, Slots: r.Hosts * r.Each, Asked: r.Rule.Slots(r.Busiest)}
	for _, p := range []struct {
		to   *template.HTML
		draw func() (template.HTML, error)
	}{
		{&data.NeedsPlot, r.needsPlot}, {&data.LoadPlot, r.loadPlot}, {&data.SharePlot, r.sharePlot},
		{&data.PolicyPlot, r.policyPlot}, {&data.TimelinePlot, r.timelinePlot},
	} {
		if *p.to, err = p.draw(); err != nil {
			return err
		}
	}
	return parsed.Execute(w, data)
}

var grey = color.RGBA{0x5c, 0x65, 0x70, 0xff}

// addLine draws points as a line, named if it has a name.
func addLine(p *plot.Plot, name string, colour color.Color, points plotter.XYs, dashed bool) error {
	line, err := plotter.NewLine(points)
	if err != nil {
		return err
	}
	line.Color, line.Width = colour, vg.Points(2)
	if dashed {
		line.Width, line.Dashes = vg.Points(1.2), []vg.Length{vg.Points(4), vg.Points(3)}
	}
	p.Add(line)
	if name != "" {
		p.Legend.Add(name, line)
	}
	return nil
}

func addDots(p *plot.Plot, name string, colour color.Color, points plotter.XYs) error {
	dots, err := plotter.NewScatter(points)
	if err != nil {
		return err
	}
	dots.Color, dots.Shape, dots.Radius = colour, draw.CircleGlyph{}, vg.Points(3.5)
	p.Add(dots)
	p.Legend.Add(name, dots)
	return nil
}

// addText writes at a point.
func addText(p *plot.Plot, at plotter.XY, text string) error {
	labels, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{at}, Labels: []string{text}})
	if err != nil {
		return err
	}
	labels.TextStyle[0].Color, labels.TextStyle[0].Font.Size = grey, vg.Points(8.5)
	p.Add(labels)
	return nil
}

// ticks are at some values, which all have names.
func ticks(values ...float64) plot.ConstantTicks {
	var all []plot.Tick
	for _, v := range values {
		all = append(all, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'f', -1, 64)})
	}
	return all
}

// plain are the ticks of a linear axis, with names as short as can be.
type plain struct{}

func (plain) Ticks(low, high float64) []plot.Tick {
	all := plot.DefaultTicks{}.Ticks(low, high)
	for i, t := range all {
		if t.Label != "" {
			all[i].Label = strconv.FormatFloat(t.Value, 'g', 3, 64)
		}
	}
	return all
}

// newPlot is one with linear axes.
func newPlot(x, y string) *plot.Plot {
	p := chart.New(x, y)
	p.X.Tick.Marker, p.Y.Tick.Marker = plain{}, plain{}
	p.Legend.Top, p.Legend.Left = true, true
	return p
}

func jobsOf(needs []Need) (jobs []float64) {
	for _, n := range needs {
		jobs = append(jobs, n.Jobs)
	}
	return jobs
}

// needsPlot shows how many slots it takes, and the rule over it.
func (r *Result) needsPlot() (template.HTML, error) {
	p := chart.New("jobs on a working day", "slots")
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = ticks(jobsOf(r.Needs)...), ticks(10, 20, 50, 100, 200, 500, 1000, 2000)
	p.Legend.Top, p.Legend.Left = true, true
	var needed, single, rule, alone, load plotter.XYs
	for _, n := range r.Needs {
		needed, single = append(needed, plotter.XY{X: n.Jobs, Y: float64(n.Slots)}), append(single, plotter.XY{X: n.Jobs, Y: float64(n.Single)})
	}
	first, last := r.Needs[0], r.Needs[len(r.Needs)-1]
	for jobs := first.Jobs; jobs < 1.001*last.Jobs; jobs *= math.Pow(last.Jobs/first.Jobs, 0.02) {
		of := jobs * first.Busiest / first.Jobs
		load = append(load, plotter.XY{X: jobs, Y: of})
		rule = append(rule, plotter.XY{X: jobs, Y: of + r.Rule.Room + r.Rule.K*math.Sqrt(of)})
		alone = append(alone, plotter.XY{X: jobs, Y: of + r.Rule.Single*math.Sqrt(of)})
	}
	for _, err := range []error{
		addLine(p, "rule of thumb: "+r.Rule.String(), chart.Palette[0], rule, false),
		addDots(p, fmt.Sprintf("simulated, in pipelines of %g jobs", r.Pipeline), chart.Palette[0], needed),
		addLine(p, fmt.Sprintf("slots = load + %.1f·√load", r.Rule.Single), chart.Palette[1], alone, false),
		addDots(p, "simulated, if each job came alone", chart.Palette[1], single),
		addLine(p, "load in the busy hour", grey, load, true),
	} {
		if err != nil {
			return "", err
		}
	}
	return chart.SVG(p, 10*vg.Centimeter)
}

// shares of the slots are these.
var shares = ticks(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)

// fullLoad is where waits are shown up to: above it they grow all day.
const fullLoad = 1.001

// loadPlot shows waits by the load of the slots.
func (r *Result) loadPlot() (template.HTML, error) {
	p := newPlot("load in the busy hour / slots", "wait for a slot, minutes")
	p.X.Tick.Marker = shares
	for i, of := range []struct {
		name string
		wait func(Point) float64
	}{
		{"99th percentile", func(p Point) float64 { return p.P99 }},
		{"95th percentile", func(p Point) float64 { return p.P95 }},
		{"median", func(p Point) float64 { return p.P50 }},
	} {
		var points plotter.XYs
		for _, at := range r.BySlots {
			if at.Share < fullLoad {
				points = append(points, plotter.XY{X: at.Share, Y: of.wait(at) / 60})
			}
		}
		if err := addLine(p, of.name, []color.Color{chart.Palette[1], chart.Palette[0], chart.Palette[2]}[i], points, false); err != nil {
			return "", err
		}
	}
	p.Y.Min = 0
	if err := r.mark(p); err != nil {
		return "", err
	}
	return chart.SVG(p, 8*vg.Centimeter)
}

// mark shows where this fleet is, by its load.
func (r *Result) mark(p *plot.Plot) error {
	at := r.Busiest / float64(r.Hosts*r.Each)
	if at < p.X.Min || at > p.X.Max {
		return nil
	}
	if err := addLine(p, "", grey, plotter.XYs{{X: at, Y: p.Y.Min}, {X: at, Y: p.Y.Max}}, true); err != nil {
		return err
	}
	return addText(p, plotter.XY{X: at + 0.006, Y: p.Y.Min + 0.45*(p.Y.Max-p.Y.Min)}, fmt.Sprintf("%d hosts with %d slots", r.Hosts, r.Each))
}

// sharePlot shows how many jobs wait, by the load of the slots.
func (r *Result) sharePlot() (template.HTML, error) {
	p := newPlot("load in the busy hour / slots", "jobs that wait longer, per cent")
	p.X.Tick.Marker = shares
	var ten, sixty plotter.XYs
	for _, at := range r.BySlots {
		if at.Share < fullLoad {
			ten, sixty = append(ten, plotter.XY{X: at.Share, Y: 100 * at.Over10}), append(sixty, plotter.XY{X: at.Share, Y: 100 * at.Over60})
		}
	}
	if err := addLine(p, "than 10 s", chart.Palette[0], ten, false); err != nil {
		return "", err
	}
	if err := addLine(p, "than 60 s", chart.Palette[1], sixty, false); err != nil {
		return "", err
	}
	if err := addLine(p, "the aim, 5 per cent", grey, plotter.XYs{{X: p.X.Min, Y: 5}, {X: p.X.Max, Y: 5}}, true); err != nil {
		return "", err
	}
	p.Y.Min = 0
	if err := r.mark(p); err != nil {
		return "", err
	}
	return chart.SVG(p, 7*vg.Centimeter)
}

// policyPlot shows which share of jobs waits how long.
func (r *Result) policyPlot() (template.HTML, error) {
	p := newPlot("seconds", "jobs that wait longer, per cent")
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, ticks(1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800)
	p.Legend.Left = false
	last := 0
	for _, of := range r.Policies {
		for i, share := range of.Longer {
			if share > 0.0005 {
				last = max(last, i)
			}
		}
	}
	times := Times()[:min(last+2, len(Times()))]
	for i, of := range r.Policies {
		var points plotter.XYs
		for at, t := range times {
			points = append(points, plotter.XY{X: t, Y: 100 * of.Longer[at]})
		}
		if err := addLine(p, string(of.Policy), []color.Color{chart.Palette[0], chart.Palette[2], chart.Palette[1]}[i], points, false); err != nil {
			return "", err
		}
	}
	p.Y.Min = 0
	return chart.SVG(p, 8*vg.Centimeter)
}

// timelinePlot shows a day.
func (r *Result) timelinePlot() (template.HTML, error) {
	p := newPlot("hour of the day", "")
	p.X.Tick.Marker = ticks(0, 3, 6, 9, 12, 15, 18, 21, 24)
	var busy, waiting, mean plotter.XYs
	for i, hour := range r.Timeline.Hours {
		busy = append(busy, plotter.XY{X: hour, Y: float64(r.Timeline.Busy[i])})
		waiting = append(waiting, plotter.XY{X: hour, Y: float64(r.Timeline.Waiting[i])})
	}
	w := r.workload(float64(r.Jobs))
	for hour := 0.0; hour <= 24; hour += 0.25 {
		mean = append(mean, plotter.XY{X: hour, Y: w.LoadAt(hour * 3600)})
	}
	area, err := plotter.NewPolygon(append(plotter.XYs{{X: 0, Y: 0}}, append(busy, plotter.XY{X: 24, Y: 0})...))
	if err != nil {
		return "", err
	}
	area.Color, area.LineStyle.Width = color.RGBA{0xb9, 0xd8, 0xec, 0xff}, 0
	p.Add(area)
	slots := float64(r.Hosts * r.Each)
	for _, err := range []error{
		addLine(p, fmt.Sprintf("%.0f slots", slots), color.Black, plotter.XYs{{X: 0, Y: slots}, {X: 24, Y: slots}}, true),
		addLine(p, "of them busy", chart.Palette[0], busy, false),
		addLine(p, "load: busy in the mean, if none waits", grey, mean, true),
		addLine(p, "jobs that wait", chart.Palette[1], waiting, false),
	} {
		if err != nil {
			return "", err
		}
	}
	p.X.Min, p.X.Max, p.Y.Min = 0, 24, 0
	p.Y.Max = max(p.Y.Max, slots) * 1.35 // room for the legend
	return chart.SVG(p, 8*vg.Centimeter)
}
