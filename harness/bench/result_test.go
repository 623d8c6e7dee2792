package bench

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ephemeral-builder/image/progress"
)

func TestSummarize(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   Summary
	}{
		{[]float64{3}, Summary{3, 3, 3}},
		{[]float64{9, 1, 2}, Summary{1, 2, 9}},
		{[]float64{4, 1, 3, 2}, Summary{1, 2.5, 4}},
	} {
		given := slices.Clone(test.values)
		if got := summarize(given); got != test.want {
			t.Errorf("summarize(%v): got %v, want %v", test.values, got, test.want)
		}
		if !slices.Equal(given, test.values) {
			t.Errorf("summarize has sorted what it was given: %v", given)
		}
	}
}

// rounds makes a result of pairs of seconds, of a cold build and of mmdebstrap.
func rounds(pairs ...[2]float64) *Result {
	run := func(seconds float64, steps ...Step) Run { return Run{Seconds: seconds, Steps: steps} }
	r := &Result{Name: "<small>", Codename: "trixie", Architecture: "amd64", Date: time.Unix(0, 0).UTC()}
	for _, p := range pairs {
		r.Rounds = append(r.Rounds, Round{
			Cold:       run(p[0], Step{stepUnpack, p[0] * 3 / 4}, Step{stepPack, p[0] / 4}),
			Mmdebstrap: run(p[1], Step{stepRest, p[1]}),
			Again:      run(0.5, Step{stepElse, 0.5}),
			User:       run(2, Step{stepRestore, 2}),
		})
	}
	r.sum()
	return r
}

// The ratio is of neighbours: both sides of the third round were slowed down by a busy machine.
func TestRatioIsOfTheSameRound(t *testing.T) {
	r := rounds([2]float64{8, 10}, [2]float64{10, 10}, [2]float64{27, 30})
	if want := (Summary{0.8, 0.9, 1}); r.Ratio != want {
		t.Errorf("ratio: got %v, want %v", r.Ratio, want)
	}
	if want := (Summary{8, 10, 27}); r.Cold != want {
		t.Errorf("cold: got %v, want %v", r.Cold, want)
	}
}

func TestTypicalRunIsOne(t *testing.T) {
	r := rounds([2]float64{8, 1}, [2]float64{4, 1}, [2]float64{20, 1}, [2]float64{12, 1})
	typical := r.kinds()[0]
	if typical.Median != 10 || typical.Seconds != 8 || typical.step(stepUnpack)+typical.step(stepPack) != 8 {
		t.Errorf("got %+v, want the median 10 and the steps of the run of 8 s", typical)
	}
}

func TestVerdict(t *testing.T) {
	for _, test := range []struct {
		cold float64
		want string
	}{
		{10, "as long as"}, {9.96, "as long as"}, {9.2, "8 % less time than"}, {12, "20 % more time than"},
	} {
		if got := rounds([2]float64{test.cold, 10}).verdict(); got != test.want {
			t.Errorf("%v s beside 10 s: got %q, want %q", test.cold, got, test.want)
		}
	}
}

func TestSteps(t *testing.T) {
	var s steps
	at := func(seconds int) time.Time { return time.Unix(int64(seconds), 0) }
	s.next(stepElse, at(0))
	s.next(stepUnpack, at(1))
	s.next(stepConfigure, at(3))
	s.next(stepUnpack, at(4))
	s.next("", at(10))
	want := []Step{{stepElse, 1}, {stepUnpack, 8}, {stepConfigure, 1}}
	if !slices.Equal(s.all, want) {
		t.Errorf("got %v, want %v", s.all, want)
	}
}

func TestStepOf(t *testing.T) {
	for _, test := range []struct {
		event progress.Event
		want  string
	}{
		{progress.Event{Stage: "bootstrap", Detail: "unpacking gcc-14"}, stepUnpack},
		{progress.Event{Stage: "bootstrap", Detail: "saving it for the next time"}, stepSave},
		{progress.Event{Stage: "pack"}, stepPack},
		{progress.Event{Stage: "pack", Ended: true}, stepElse},
	} {
		if got := stepOf(test.event); got != test.want {
			t.Errorf("%+v: got %q, want %q", test.event, got, test.want)
		}
	}
	if got := stepOfMmdebstrap("I: installing remaining packages inside the chroot..."); got != stepRest {
		t.Errorf("mmdebstrap: got %q, want %q", got, stepRest)
	}
}

func TestNiceStep(t *testing.T) {
	for least, want := range map[float64]float64{0.07: 0.1, 0.1: 0.1, 1.1: 2, 3: 5, 6: 10, 20: 20} {
		if got := niceStep(least); got < want*0.999 || got > want*1.001 {
			t.Errorf("niceStep(%v): got %v, want %v", least, got, want)
		}
	}
}

func TestPlotsStayInsideAndAddUp(t *testing.T) {
	r := rounds([2]float64{8, 10}, [2]float64{10, 31}, [2]float64{0.2, 10})
	for _, p := range []plot{r.dots(), r.bars()} {
		last := p.Ticks[len(p.Ticks)-1]
		if p.Ticks[0] != (tick{plotLeft, "0"}) || last.X > plotRight {
			t.Errorf("the axis goes from %v to %v, want it to begin at 0 and to stay left of %v", p.Ticks[0], last, plotRight)
		}
		for _, row := range p.Rows {
			end := plotLeft
			for _, part := range row.Parts {
				if diff := part.X - end; diff < -0.11 || diff > 0.11 {
					t.Errorf("%s: %s begins at %v, want %v", row.Name, part.Class, part.X, end)
				}
				end = part.X + part.Width
			}
			for _, dot := range append(row.Dots, row.Label, tick{X: end}) {
				if dot.X < plotLeft || dot.X > plotRight {
					t.Errorf("%s: %q is at %v, outside of the plot", row.Name, dot.Text, dot.X)
				}
			}
		}
	}
}

func TestWrite(t *testing.T) {
	base := filepath.Join(t.TempDir(), "bench-build")
	r := rounds([2]float64{8, 10})
	if err := Write(base, r, r.page); err != nil {
		t.Fatal(err)
	}
	for name, wants := range map[string][]string{
		base + ".json": {`"ratio": {`, `"median": 0.8`, `"seconds": 8`},
		base + ".html": {"&lt;small&gt;", "20 % less time than", "<td>8.00 s</td>", "0.80"},
	} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s has no %q", filepath.Base(name), want)
			}
		}
	}
	if text := rounds([2]float64{8, 10}).Text(); !strings.Contains(text, "cold build / mmdebstrap            0.80     0.80     0.80") {
		t.Errorf("no ratio in:\n%s", text)
	}
}
