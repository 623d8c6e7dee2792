package queueing

import (
	"math"
	"testing"

	"gonum.org/v1/gonum/stat/distuv"
)

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if !(math.Abs(got-want) <= within) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func TestErlangC(t *testing.T) {
	for _, load := range []float64{0.1, 0.5, 0.9} {
		near(t, "the wait at one server, which is its load", ErlangC(1, load), load, 1e-12)
		// Two servers: load²/(2+load).
		near(t, "the wait at two servers", ErlangC(2, load), load*load/(2+load), 1e-12)
	}
	// By the sum of the definition.
	servers, load := 10, 8.0
	sum, term := 0.0, 1.0
	for n := range servers {
		sum += term
		term *= load / float64(n+1)
	}
	last := term / (1 - load/float64(servers))
	near(t, "the wait at ten servers", ErlangC(servers, load), last/(sum+last), 1e-12)
	if got := ErlangC(10, 10); got != 1 {
		t.Errorf("at full load %v wait, want all", got)
	}
	near(t, "longer than no time", Longer(10, 8, 0), ErlangC(10, 8), 1e-12)
	near(t, "longer than a time", Longer(10, 8, 0.5), ErlangC(10, 8)/math.E, 1e-12)
	if p := ErlangC(5000, 4900); !(p > 0 && p < 1) {
		t.Errorf("with many servers %v wait", p)
	}
}

func TestMeanWait(t *testing.T) {
	near(t, "M/M/1", MeanWait(0.5, 1, 1), 1, 1e-12)
	near(t, "M/D/1", MeanWait(0.5, 0, 1), 0.5, 1e-12)
	near(t, "of batches in an idle system the wait for those before", MeanWait(0, 0, 3), 2, 1e-12)
}

func TestPeakedness(t *testing.T) {
	exponential := distuv.Exponential{Rate: 1.0 / 7}
	near(t, "without batches", Peakedness(1, 7, exponential.Quantile), 1, 1e-12)
	// The shorter of two exponential times is half as long.
	near(t, "of exponential times", Peakedness(5, 7, exponential.Quantile), 5, 1e-3)
	// Of lognormal ones it is 2Φ(-σ/√2) as long.
	lognormal := distuv.LogNormal{Mu: 3, Sigma: 1.2}
	want := 1 + 2*4*2*distuv.UnitNormal.CDF(-1.2/math.Sqrt2)
	near(t, "of lognormal times", Peakedness(5, lognormal.Mean(), lognormal.Quantile), want, 1e-3)
}
