package simulate

// Host is what a host with containers takes, in seconds. A start alone takes Start. Each other that
// is on its way at the same moment adds StartSlope, as CPU time is what limits them, and each
// container that runs already adds RunningSlope; likewise for what frees a slot.
type Host struct {
	Start, StartSlope, RunningSlope float64 // from the dial to the end of a first command
	Free, FreeSlope                 float64 // from the close to a slot that is free again
}

// OnDemand are the README's figures of a container on demand, on two cores: alone 61.7 ms, with
// eight clients 21.2 in a second, the last of 256 containers 77 ms where the first had 68; 39 ms
// until a slot is free, and 4.5 s until 256 are.
func OnDemand() Host {
	return Host{Start: 0.0617, Free: 0.039, RunningSlope: (0.077 - 0.068) / 255, FreeSlope: (4.5 - 0.039) / 255}.Limited(8, 21.2)
}

// Warm are those with start = "warm": alone 36.5 ms, with eight clients 28.5 in a second. How long
// a slot takes until its next container waits was not measured: an assumption is that of on demand,
// and a start.
func Warm() Host {
	h := OnDemand()
	h.Start, h.Free = 0.0365, h.Free+h.Start
	return h.Limited(8, 28.5)
}

// Limited is a host on which so many clients, each of which connects again once it is done, make a
// number of connections in a second.
func (h Host) Limited(clients int, perSecond float64) Host {
	h.StartSlope = 0
	if others := float64(clients - 1); others > 0 {
		h.StartSlope = max(0, (float64(clients)/perSecond-h.Start)/others)
	}
	return h
}

// Starts is how many connections in a second so many clients make, each of which connects again
// once it is done.
func (h Host) Starts(clients int) float64 { return float64(clients) / h.start(clients, 0) }

// start is how long it takes from the dial to the end of a first command, if so many are on the
// way with this one, and others run.
func (h Host) start(starting, running int) float64 {
	return h.Start + h.StartSlope*float64(starting-1) + h.RunningSlope*float64(running)
}

// free is how long it takes from the close until the slot is free, if so many end with this one.
func (h Host) free(freeing int) float64 { return h.Free + h.FreeSlope*float64(freeing-1) }
