// Package queueing has the closed forms that a simulation can be held against. Loads are in Erlang:
// the rate of arrivals by the mean time of service.
//
// They are those of any textbook on queues, Erlang's, and Pollaczek's and Khinchine's. No source was
// looked at for them: the tests hold them against cases that can be worked out by hand.
package queueing

import (
	"math"

	"gonum.org/v1/gonum/integrate/quad"
)

// ErlangC is the probability that a job has to wait in M/M/c, with an offered load below the number
// of servers; it is 1 from there on.
func ErlangC(servers int, load float64) float64 {
	if load >= float64(servers) {
		return 1
	}
	// By Erlang B, whose recursion does not overflow.
	blocked := 1.0
	for n := 1; n <= servers; n++ {
		blocked = load * blocked / (float64(n) + load*blocked)
	}
	return blocked / (1 - load/float64(servers)*(1-blocked))
}

// Longer is the probability that a job waits longer than a time in M/M/c, in the unit of the mean
// time of service.
func Longer(servers int, load, time float64) float64 {
	if load >= float64(servers) {
		return 1
	}
	return ErlangC(servers, load) * math.Exp(-(float64(servers)-load)*time)
}

// MeanWait is that of M^X/G/1, in the unit of the mean time of service: of one server whose load is
// below 1, with batches of a geometric number of jobs with a mean, 1 for M/G/1. The variability of
// the service is its squared coefficient of variation: 0 if all take the same time, 1 if the time
// is exponential.
func MeanWait(load, variability, batch float64) float64 {
	return (load*(1+variability)/2 + batch - 1) / (1 - load)
}

// Peakedness is the variance of the number of busy servers by its mean in M^X/G/∞: 1 without
// batches. Batches have a geometric number of jobs with a mean; quantile is that of the time of
// service, mean its mean.
func Peakedness(batch, mean float64, quantile func(float64) float64) float64 {
	return 1 + 2*(batch-1)*shorter(quantile)/mean
}

// shorter is the mean of the shorter of two jobs: as long both of a batch are busy.
func shorter(quantile func(float64) float64) float64 {
	return quad.Fixed(func(p float64) float64 { return 2 * (1 - p) * quantile(p) }, 0, 1, 1000, quad.Legendre{}, 0)
}
