package connect

import (
	"fmt"
	"html/template"
	"image/color"
	"io"
	"slices"
	"time"

	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"ephemeral-builder/harness/bench/chart"
	"ephemeral-builder/harness/bench/plan"

	_ "embed"
)

//go:embed page.html
var pageText string

// page writes a self-contained HTML page.
func (r *Result) page(w io.Writer) error {
	parsed, err := chart.Page(pageText, nil)
	if err != nil {
		return err
	}
	data := struct {
		*Result
		Ours, Warm                                              Row
		Rows                                                    [][]Row
		Distribution, Concurrency, Steps, Traced, Starts, Costs template.HTML
		Stages                                                  map[string][]Stage
		Grown                                                   []Grown
		JobRows                                                 []JobRow
	}{Result: r, Stages: map[string][]Stage{}, Grown: r.GrownTo(), JobRows: r.jobRows()}
	for _, s := range r.Series {
		data.Rows = append(data.Rows, r.rows(s))
	}
	plots := map[*template.HTML]func() (template.HTML, error){}
	if len(r.Series) > 0 {
		for _, row := range data.Rows[0] {
			switch row.Name {
			case Ours:
				data.Ours = row
			case Warm:
				data.Warm = row
			}
		}
		plots[&data.Distribution], plots[&data.Concurrency], plots[&data.Steps] = r.distribution, r.concurrency, r.steps
	}
	if len(r.Traces) > 0 {
		plots[&data.Traced] = r.timeline
		for _, name := range r.traced() {
			data.Stages[name] = r.stages(name, onTheWay)
		}
	}
	if len(data.Grown) > 0 {
		plots[&data.Starts] = func() (template.HTML, error) {
			return growthPlot("start, milliseconds", data.Grown, func(g Grown) float64 { return g.Start.Median })
		}
		plots[&data.Costs] = func() (template.HTML, error) {
			return growthPlot("memory of the machine for each, MiB", data.Grown, func(g Grown) float64 { return g.Each })
		}
	}
	for dst, draw := range plots {
		if *dst, err = draw(); err != nil {
			return err
		}
	}
	return parsed.Execute(w, data)
}

// taking are the contenders that took part, with their colours.
func (r *Result) taking() (names []string, colours map[string]color.Color) {
	colours = map[string]color.Color{}
	for i, c := range r.Contenders {
		if c.Skipped == "" {
			names = append(names, c.Name)
			colours[c.Name] = chart.Palette[i%len(chart.Palette)]
		}
	}
	return names, colours
}

// distribution shows which share of connections was done after which time, with one client.
func (r *Result) distribution() (template.HTML, error) {
	p := chart.New("milliseconds from the dial to the end of true", "share of connections")
	p.Legend.Top = false
	names, colours := r.taking()
	for _, name := range names {
		times := r.Series[0].times(name, done)
		slices.Sort(times)
		var points plotter.XYs
		for i, t := range times {
			points = append(points, plotter.XY{X: t, Y: float64(i+1) / float64(len(times))})
		}
		if len(points) == 0 {
			continue
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return "", err
		}
		line.Color, line.Width, line.StepStyle = colours[name], vg.Points(2), plotter.PostStep
		p.Add(line)
		p.Legend.Add(name, line)
	}
	p.X.Min, p.Y.Min, p.Y.Max = 0, 0, 1
	return chart.SVG(p, 8*vg.Centimeter)
}

// concurrency shows the medians by the number of clients.
func (r *Result) concurrency() (template.HTML, error) {
	p := chart.New("clients at the same time", "median, milliseconds")
	p.Legend.Top, p.Legend.Left = true, true
	names, colours := r.taking()
	for _, name := range names {
		var points plotter.XYs
		for _, s := range r.Series {
			if times := s.times(name, done); len(times) > 0 {
				points = append(points, plotter.XY{X: float64(s.Clients), Y: median(times)})
			}
		}
		if len(points) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return "", err
		}
		line.Color, line.Width = colours[name], vg.Points(2)
		dots.Color, dots.Shape = colours[name], draw.CircleGlyph{}
		p.Add(line, dots)
		p.Legend.Add(name, line)
	}
	p.X.Min, p.Y.Min = 0, 0
	return chart.SVG(p, 8*vg.Centimeter)
}

// parts of a connection, as a client sees them.
var parts = []struct {
	name     string
	from, to func(plan.Sample) time.Duration
}{
	{"until the server speaks", func(plan.Sample) time.Duration { return 0 }, func(s plan.Sample) time.Duration { return s.Banner }},
	{"key exchange", func(s plan.Sample) time.Duration { return s.Banner }, func(s plan.Sample) time.Duration { return s.Kex }},
	{"authentication", func(s plan.Sample) time.Duration { return s.Kex }, func(s plan.Sample) time.Duration { return s.Auth }},
	{"first command", func(s plan.Sample) time.Duration { return s.Auth }, func(s plan.Sample) time.Duration { return s.Done }},
}

// steps shows where the time of a typical connection goes, with one client.
func (r *Result) steps() (template.HTML, error) {
	p := chart.New("milliseconds, medians of each part", "")
	names, _ := r.taking()
	slices.Reverse(names) // the first one on top
	var below *plotter.BarChart
	for i, part := range parts {
		var values plotter.Values
		for _, name := range names {
			values = append(values, median(r.Series[0].times(name, func(s plan.Sample) time.Duration { return part.to(s) - part.from(s) })))
		}
		bars, err := plotter.NewBarChart(values, 0.6*vg.Centimeter)
		if err != nil {
			return "", err
		}
		bars.Horizontal, bars.Color, bars.LineStyle.Width = true, chart.Palette[i], 0
		if below != nil {
			bars.StackOn(below)
		}
		below = bars
		p.Add(bars)
		p.Legend.Add(part.name, bars)
	}
	p.Legend.Top = true
	p.NominalY(names...)
	p.X.Min = 0
	return chart.SVG(p, vg.Length(float64(len(names))*1.1+2.6)*vg.Centimeter)
}

// timeline shows the stages of a typical connection, one below the other, for each contender
// that was traced.
func (r *Result) timeline() (template.HTML, error) {
	p := chart.New("milliseconds since the dial, medians", "")
	var names []string
	contenders := r.traced()
	_, colours := r.taking()
	for _, contender := range slices.Backward(contenders) {
		for _, stage := range slices.Backward(r.stages(contender, onTheWay)) {
			y := float64(len(names))
			line, err := plotter.NewLine(plotter.XYs{{X: stage.Begins.Median, Y: y}, {X: stage.Begins.Median + stage.Time.Median, Y: y}})
			if err != nil {
				return "", err
			}
			line.Color, line.Width = colours[contender], vg.Points(8)
			p.Add(line)
			names = append(names, stage.Name)
		}
		names = append(names, contender+":")
	}
	p.NominalY(names...)
	p.X.Min = 0
	p.Y.Max = float64(len(names)) - 0.5 // the first contender's name has no line
	return chart.SVG(p, vg.Length(float64(len(names))*0.5+1.6)*vg.Centimeter)
}

// growthPlot shows a cost by the number of containers.
func growthPlot(label string, rows []Grown, of func(Grown) float64) (template.HTML, error) {
	p := chart.New("idle containers", label)
	var points plotter.XYs
	for _, g := range rows {
		points = append(points, plotter.XY{X: float64(g.Containers), Y: of(g)})
	}
	line, dots, err := plotter.NewLinePoints(points)
	if err != nil {
		return "", err
	}
	line.Color, line.Width, dots.Color, dots.Shape = chart.Palette[0], vg.Points(2), chart.Palette[0], draw.CircleGlyph{}
	p.Add(line, dots)
	p.X.Min, p.Y.Min = 0, 0
	return chart.SVG(p, 6*vg.Centimeter)
}

// Percent is how much more or less a ratio is than one, in words.
func (e Estimate) Percent() string {
	if e.Median < 1 {
		return fmt.Sprintf("%.0f %% less than", 100*(1-e.Median))
	}
	return fmt.Sprintf("%.0f %% longer than", 100*(e.Median-1))
}
