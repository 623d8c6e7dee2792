// Package progress shows a person what long work does: a live line for each running
// stage on a terminal, and a few plain lines in a log.
package progress

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Reporter shows stages. Its methods, and those of its stages, may be called from
// several goroutines, and on nil, which shows nothing. No two reporters may write to
// one terminal at the same time.
type Reporter struct {
	quit, done chan struct{} // end of refresh
	see        func(Event)   // of [Watch], or nil

	mu      sync.Mutex // held around each call of display
	display display
	running []*Stage
	closed  bool
}

// display is where stages are shown. Lines have no newline at their end.
type display interface {
	start(s *Stage)
	end(s *Stage, line string) // line takes the place of what was shown while s ran
	note(line string)
	refresh()
	close()
}

// New returns a reporter on w, which the caller closes. Live lines appear if w is a
// terminal with a size (a serial console has none) and neither NO_COLOR
// (https://no-color.org) nor TERM=dumb ask for plain ones.
func New(w io.Writer) *Reporter {
	if f, ok := w.(*os.File); ok && os.Getenv("NO_COLOR") == "" && !slices.Contains([]string{"", "dumb"}, os.Getenv("TERM")) {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return newReporter(newTerminal(w), terminalInterval)
		}
	}
	return newReporter(&plain{w: w}, time.Second)
}

func newReporter(d display, interval time.Duration) *Reporter {
	r := &Reporter{display: d, quit: make(chan struct{}), done: make(chan struct{})}
	go r.refresh(interval)
	return r
}

func (r *Reporter) refresh(interval time.Duration) {
	defer close(r.done)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.show(func(d display) { d.refresh() })
		case <-r.quit:
			return
		}
	}
}

// show calls f unless r is closed.
func (r *Reporter) show(f func(display)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		f(r.display)
	}
}

// Stage starts a stage, such as "bootstrap". The caller ends it with [Stage.Done] or
// [Stage.Fail].
func (r *Reporter) Stage(name string) *Stage {
	if r == nil {
		return nil
	}
	s := &Stage{reporter: r, name: oneLine(name), start: time.Now()}
	r.show(func(d display) {
		r.running = append(r.running, s)
		d.start(s)
	})
	r.saw(s.name, "", false)
	return s
}

// Note shows a line above the live ones, for what a person should still find when the
// work is over.
func (r *Reporter) Note(format string, args ...any) {
	if r == nil {
		return
	}
	line := strings.TrimSuffix(fmt.Sprintf(format, args...), "\n")
	r.show(func(d display) { d.note(line) })
}

// Close fails the stages that still run. It returns when everything is written; from
// then on r shows nothing.
func (r *Reporter) Close() {
	if r == nil {
		return
	}
	r.mu.Lock()
	running := slices.Clone(r.running)
	r.mu.Unlock()
	for _, s := range running {
		s.Fail()
	}
	r.show(func(d display) {
		r.closed = true
		d.close()
		close(r.quit)
	})
	<-r.done
}
