package progress

import (
	"io"
	"time"
)

// Event is a moment of a stage: it starts, says what it does now, or ends.
type Event struct {
	Stage  string // its name
	Detail string // as given to [Stage.Detail]; empty at the start and at the end
	Ended  bool
	At     time.Time
}

// Watch returns a reporter that shows nothing and tells see of every event, one at a
// time, so that a program can measure what takes how long. The caller closes it.
func Watch(see func(Event)) *Reporter {
	r := newReporter(&plain{w: io.Discard}, time.Hour)
	r.see = see
	return r
}

// saw tells who watches, if anybody does.
func (r *Reporter) saw(stage, detail string, ended bool) {
	if r == nil || r.see == nil {
		return
	}
	r.show(func(display) { r.see(Event{stage, detail, ended, time.Now()}) })
}
