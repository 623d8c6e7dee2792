// Package chart is how plots look on pages: gonum's plots as SVG elements of a page.
package chart

import (
	"bytes"
	_ "embed"
	"html/template"
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Palette tells what is drawn apart, also for who sees fewer colours: Okabe and Ito's.
var Palette = []color.Color{
	color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff},
	color.RGBA{0xcc, 0x79, 0xa7, 0xff}, color.RGBA{0xe6, 0x9f, 0x00, 0xff}, color.RGBA{0x56, 0xb4, 0xe9, 0xff},
}

// New is an empty plot with a grid and names for its axes.
func New(x, y string) *plot.Plot {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text = x, y
	p.Add(plotter.NewGrid())
	p.Legend.Padding = vg.Points(2)
	p.X.Label.TextStyle.Font.Size, p.Y.Label.TextStyle.Font.Size = vg.Points(9), vg.Points(9)
	p.Legend.TextStyle.Font.Size = vg.Points(9)
	return p
}

//go:embed style.css
var style string

// Page reads the text of a page, which has "style" for what all pages look like, and more functions.
func Page(text string, functions template.FuncMap) (*template.Template, error) {
	own := template.FuncMap{"style": func() template.CSS { return template.CSS(style) }}
	return template.New("page").Funcs(own).Funcs(functions).Parse(text)
}

// SVG is a plot as an element of the page.
func SVG(p *plot.Plot, height vg.Length) (template.HTML, error) {
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
