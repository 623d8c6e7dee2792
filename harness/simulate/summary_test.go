package simulate

import (
	"slices"
	"testing"
)

func TestSummarize(t *testing.T) {
	var served []Served
	for i := range 100 { // they wait 1 to 100 s, the last first
		arrival := float64(i)
		served = append(served, Served{Job: Job{Arrival: arrival}, Given: arrival + float64(100-i), Ended: 110, Freed: 120})
	}
	got := Summarize(served, 2, AllDay)
	// All have their slots at 100, after the last arrival.
	want := Summary{Jobs: 100, Mean: 50.5, P50: 50, P95: 95, P99: 99, Over10: 0.9, Over60: 0.4}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	served[0].Given, served[0].Freed = 0, 49.5
	if got := Summarize(served, 2, AllDay).Utilisation; got != 0.25 {
		t.Errorf("one of two slots half the time is %v", got)
	}
	if Summarize(nil, 1, AllDay) != (Summary{}) {
		t.Error("no jobs have a summary")
	}
	if got := Longer([]float64{0, 0, 1, 2}, 0); got != 0.5 {
		t.Errorf("%v wait longer than not at all, want half", got)
	}
	counts := Count(served[:2], func(s Served) float64 { return s.Arrival }, func(s Served) float64 { return s.Given }, []float64{0, 1, 99, 100})
	if !slices.Equal(counts, []int{0, 0, 1, 1}) {
		t.Errorf("%v wait at these times", counts)
	}
}

func TestWindow(t *testing.T) {
	served := []Served{
		{Job: Job{Arrival: 0}, Given: 0, Freed: 7200}, // all of both hours, and one wait at each end
		{Job: Job{Arrival: 3600}, Given: 3610, Freed: 5400},
		{Job: Job{Arrival: 7199}, Given: 7219, Freed: 7300},
		{Job: Job{Arrival: Day + 7200}, Given: Day + 7300, Freed: Day + 7400},
	}
	hour := Hour(5400)
	got := Summarize(served, 1, hour)
	// Of two days' hours one has a job all the time, and half of it a second one.
	want := Summary{Jobs: 2, Mean: 15, P50: 10, P95: 20, P99: 20, Over10: 0.5, Utilisation: (3600 + 1790) / 7200.0}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := Waits(served, AllDay); !slices.Equal(got, []float64{0, 10, 20, 100}) {
		t.Errorf("all day they wait %v", got)
	}
}
