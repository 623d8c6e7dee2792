package simulate

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
)

// Policy says who gives jobs to hosts.
type Policy string

const (
	// Balanced jobs wait in one first-come queue, and go to the host with the fewest connections:
	// HAProxy with leastconn, and maxconn as many as slots.
	Balanced Policy = "one balancer, least connections"
	// Polled jobs wait at GitLab, of which each host's [[runners]] asks every Poll seconds. As long
	// as it gets one it asks again at once, until its slots are full: so says
	// https://gitlab.com/gitlab-org/gitlab-runner/-/issues/3678, and the merge request 6081 there
	// calls it the default. That the hosts ask in turn, evenly, is an assumption.
	Polled Policy = "GitLab's queue, hosts that poll"
	// Scattered jobs go to a host drawn when they come, and wait there.
	Scattered Policy = "a random host per job"
)

// Policies are all of them, the best first.
var Policies = []Policy{Balanced, Polled, Scattered}

// Fleet are hosts that serve jobs.
type Fleet struct {
	Slots  []int // of each host
	Host   Host
	Policy Policy
	Poll   float64 // seconds between two questions of a host for jobs: check_interval, 3 if left out
	Hop    float64 // seconds that a connection takes longer through the balancer
}

// Even are so many slots on hosts that have slots each; the last one may have fewer.
func Even(slots, each int) (of []int) {
	for ; slots > 0; slots -= each {
		of = append(of, min(slots, each))
	}
	return of
}

// Served is a job that has ended, in seconds since the simulation began.
type Served struct {
	Job
	Host  int
	Given float64 // it has a slot
	Begun float64 // its first command runs
	Ended float64
	Freed float64 // its slot can be given again
}

// Wait is how long it waited for a slot, in seconds.
func (s Served) Wait() float64 { return s.Given - s.Arrival }

// kinds of events.
type kind byte

const (
	begun kind = iota
	ended
	freed
	polled
)

type event struct {
	at   float64
	kind kind
	of   int32 // the job, or the host that polls
}

// events are a heap, the next one first. At the same time a slot is freed before it is asked for.
type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if e[i].at != e[j].at {
		return e[i].at < e[j].at
	}
	return e[i].kind < e[j].kind || e[i].kind == e[j].kind && e[i].of < e[j].of
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

// Push and Pop are for [heap.Interface]. The two below do the same without an allocation for each
// event.
func (e *events) Push(x any) { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func (e *events) add(next event) {
	*e = append(*e, next)
	heap.Fix(e, len(*e)-1)
}

func (e *events) next() event {
	first, last := (*e)[0], len(*e)-1
	(*e)[0] = (*e)[last]
	if *e = (*e)[:last]; last > 0 {
		heap.Fix(e, 0)
	}
	return first
}

// queue is one of jobs, first come, first served.
type queue struct{ jobs []int32 }

func (q *queue) push(job int32) { q.jobs = append(q.jobs, job) }
func (q *queue) empty() bool    { return len(q.jobs) == 0 }
func (q *queue) pop() int32 {
	first := q.jobs[0]
	q.jobs = q.jobs[1:]
	return first
}

type host struct {
	slots, used       int // used ones are given and not yet freed
	starting, freeing int
	waiting           queue // of Scattered
}

// run is a simulation on its way.
type run struct {
	Fleet
	served []Served
	hosts  []host
	events events
	queue  queue // of all hosts
	free   int   // slots of all hosts
}

// Run serves jobs, which are in the order of their arrival, and returns them in that order. The
// same seed, which only [Scattered] needs, gives the same result.
func (f Fleet) Run(jobs []Job, seed uint64) ([]Served, error) {
	if len(f.Slots) == 0 {
		return nil, fmt.Errorf("a fleet needs a host")
	}
	r := run{Fleet: f, served: make([]Served, len(jobs)), hosts: make([]host, len(f.Slots))}
	for i, slots := range f.Slots {
		if slots < 1 {
			return nil, fmt.Errorf("host %d has %d slots: it needs at least 1", i+1, slots)
		}
		r.hosts[i].slots = slots
		r.free += slots
	}
	if r.Poll == 0 {
		r.Poll = 3
	}
	rng := rand.New(rand.NewPCG(seed, 2))
	for i, job := range jobs {
		if i > 0 && job.Arrival < jobs[i-1].Arrival {
			return nil, fmt.Errorf("job %d comes before the one before", i+1)
		}
		r.until(job.Arrival)
		r.served[i].Job = job
		switch f.Policy {
		case Balanced:
			r.queue.push(int32(i))
			r.balance(job.Arrival)
		case Polled:
			r.queue.push(int32(i))
			if len(r.queue.jobs) == 1 {
				r.ask(job.Arrival)
			}
		case Scattered:
			at := rng.IntN(len(r.hosts))
			r.hosts[at].waiting.push(int32(i))
			r.serve(at, &r.hosts[at].waiting, job.Arrival)
		default:
			return nil, fmt.Errorf("the policy %q is unknown", f.Policy)
		}
	}
	r.until(math.Inf(1))
	return r.served, nil
}

// until handles all events up to a time.
func (r *run) until(time float64) {
	for len(r.events) > 0 && r.events[0].at <= time {
		e := r.events.next()
		if e.kind == polled {
			r.serve(int(e.of), &r.queue, e.at)
			r.ask(e.at)
			continue
		}
		job := &r.served[e.of]
		h := &r.hosts[job.Host]
		switch e.kind {
		case begun:
			h.starting--
			job.Ended = e.at + job.Length
			r.events.add(event{job.Ended, ended, e.of})
		case ended:
			h.freeing++
			job.Freed = e.at + r.Host.free(h.freeing)
			r.events.add(event{job.Freed, freed, e.of})
		case freed:
			h.freeing--
			h.used--
			r.free++
			switch r.Policy {
			case Balanced:
				r.balance(e.at)
			case Polled:
				if !r.queue.empty() {
					r.events.add(event{r.nextPoll(job.Host, e.at), polled, int32(job.Host)})
				}
			case Scattered:
				r.serve(job.Host, &h.waiting, e.at)
			}
		}
	}
}

// give gives a slot of a host, which must have one, to a job.
func (r *run) give(job int32, to int, at float64) {
	h, s := &r.hosts[to], &r.served[job]
	running := h.used - h.starting - h.freeing
	h.used++
	r.free--
	h.starting++
	s.Host, s.Given = to, at
	s.Begun = at + r.Host.start(h.starting, running)
	if r.Policy == Balanced {
		s.Begun += r.Hop
	}
	r.events.add(event{s.Begun, begun, job})
}

// serve gives a host's free slots to those who wait.
func (r *run) serve(host int, waiting *queue, at float64) {
	for !waiting.empty() && r.hosts[host].used < r.hosts[host].slots {
		r.give(waiting.pop(), host, at)
	}
}

// balance gives free slots to those who wait, each time one of the host with the fewest
// connections. A slot that is being freed counts as one. HAProxy sees it, too: of the jobs in
// fleet-jobs.txtar that came when all slots were taken no host refused any.
func (r *run) balance(at float64) {
	for r.free > 0 && !r.queue.empty() {
		best := -1
		for i := range r.hosts {
			if h := &r.hosts[i]; h.used < h.slots && (best < 0 || h.used < r.hosts[best].used) {
				best = i
			}
		}
		r.give(r.queue.pop(), best, at)
	}
}

// ask lets the host that polls next, of those with free slots, do so, if jobs wait. Polls that find
// nothing are left out.
func (r *run) ask(at float64) {
	if r.free == 0 || r.queue.empty() {
		return
	}
	best, first := 0, math.Inf(1)
	for i := range r.hosts {
		if h := &r.hosts[i]; h.used < h.slots {
			if next := r.nextPoll(i, at); next < first {
				best, first = i, next
			}
		}
	}
	r.events.add(event{first, polled, int32(best)})
}

// nextPoll is when a host polls next, after a time.
func (r *run) nextPoll(host int, after float64) float64 {
	phase := r.Poll * float64(host) / float64(len(r.hosts))
	turn := math.Floor((after-phase)/r.Poll) + 1
	next := phase + turn*r.Poll
	if next <= after { // by rounding
		next += r.Poll
	}
	return next
}
