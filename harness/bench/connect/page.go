package connect

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"io"
	"slices"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"ephemeral-builder/harness/bench/plan"

	_ "embed"
)

//go:embed page.html
var pageText string

// page writes a self-contained HTML page.
func (r *Result) page(w io.Writer) error {
	parsed, err := template.New("page").Parse(pageText)
	if err != nil {
		return err
	}
	data := struct {
		*Result
		Ours                             Row
		Rows                             [][]Row
		Distribution, Concurrency, Steps template.HTML
	}{Result: r}
	for _, s := range r.Series {
		data.Rows = append(data.Rows, r.rows(s))
	}
	for _, row := range data.Rows[0] {
		if row.Name == Ours {
			data.Ours = row
		}
	}
	if data.Distribution, err = r.distribution(); err != nil {
		return err
	}
	if data.Concurrency, err = r.concurrency(); err != nil {
		return err
	}
	if data.Steps, err = r.steps(); err != nil {
		return err
	}
	return parsed.Execute(w, data)
}

// palette tells contenders and steps apart, also for who sees fewer colours: Okabe and Ito's.
var palette = []color.Color{
	color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff},
	color.RGBA{0xcc, 0x79, 0xa7, 0xff}, color.RGBA{0xe6, 0x9f, 0x00, 0xff}, color.RGBA{0x56, 0xb4, 0xe9, 0xff},
}

// taking are the contenders that took part, with their colours.
func (r *Result) taking() (names []string, colours map[string]color.Color) {
	colours = map[string]color.Color{}
	for i, c := range r.Contenders {
		if c.Skipped == "" {
			names = append(names, c.Name)
			colours[c.Name] = palette[i%len(palette)]
		}
	}
	return names, colours
}

func newPlot(x, y string) *plot.Plot {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text = x, y
	p.Add(plotter.NewGrid())
	p.Legend.Padding = vg.Points(2)
	p.X.Label.TextStyle.Font.Size, p.Y.Label.TextStyle.Font.Size = vg.Points(9), vg.Points(9)
	p.Legend.TextStyle.Font.Size = vg.Points(9)
	return p
}

// svg is a plot as an element of the page.
func svg(p *plot.Plot, height vg.Length) (template.HTML, error) {
	// With the fonts that the plot was measured with: others overlap.
	canvas := vgsvg.NewWith(vgsvg.UseWH(18*vg.Centimeter, height), vgsvg.EmbedFonts(true))
	p.Draw(draw.New(canvas))
	var text bytes.Buffer
	if _, err := canvas.WriteTo(&text); err != nil {
		return "", err
	}
	// Without the declaration that a file of its own begins with.
	from := max(bytes.Index(text.Bytes(), []byte("<svg")), 0)
	return template.HTML(text.Bytes()[from:]), nil
}

// distribution shows which share of connections was done after which time, with one client.
func (r *Result) distribution() (template.HTML, error) {
	p := newPlot("milliseconds from the dial to the end of true", "share of connections")
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
	return svg(p, 8*vg.Centimeter)
}

// concurrency shows the medians by the number of clients.
func (r *Result) concurrency() (template.HTML, error) {
	p := newPlot("clients at the same time", "median, milliseconds")
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
	return svg(p, 8*vg.Centimeter)
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
	p := newPlot("milliseconds, medians of each part", "")
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
		bars.Horizontal, bars.Color, bars.LineStyle.Width = true, palette[i], 0
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
	return svg(p, vg.Length(float64(len(names))*1.1+2.6)*vg.Centimeter)
}

// Percent is how much more or less a ratio is than one, in words.
func (e Estimate) Percent() string {
	if e.Median < 1 {
		return fmt.Sprintf("%.0f %% less than", 100*(1-e.Median))
	}
	return fmt.Sprintf("%.0f %% longer than", 100*(e.Median-1))
}
