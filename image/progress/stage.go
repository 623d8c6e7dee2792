package progress

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Stage is a part of the work that takes a while. It is also an [io.Writer] that takes
// each line as a detail: give it to a program as its standard output.
type Stage struct {
	reporter *Reporter
	name     string
	start    time.Time

	mu          sync.Mutex // never held while calling the display, which renders under it
	detail      string
	total, have int64
	partial     []byte // of the line that is being written
	ended       bool
}

// Detail says what the stage does right now: "unpacking gcc-14".
func (s *Stage) Detail(format string, args ...any) {
	if s == nil {
		return
	}
	detail := oneLine(fmt.Sprintf(format, args...))
	s.mu.Lock()
	s.detail = detail
	s.mu.Unlock()
	s.reporter.saw(s.name, detail, false)
}

// Write takes the last complete line of p that is not blank as the detail. The error is
// always nil.
func (s *Stage) Write(p []byte) (int, error) {
	if s == nil {
		return len(p), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.partial = append(s.partial, p...)
	if end := bytes.LastIndexAny(s.partial, "\r\n"); end >= 0 {
		lines := bytes.TrimSpace(s.partial[:end])
		if len(lines) > 0 {
			s.detail = oneLine(string(lines[bytes.LastIndexAny(lines, "\r\n")+1:]))
		}
		s.partial = slices.Clone(s.partial[end+1:])
	}
	return len(p), nil
}

// Total says how much there is to do, in any unit. It may change; at zero, which it is at
// first, nobody knows.
func (s *Stage) Total(n int64) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total = n
}

// Set says how much of the total is done so far.
func (s *Stage) Set(n int64) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.have = n
}

// Done ends the stage with a line like "bootstrap  done in 45s  156 packages", of which
// format makes the last part. It does nothing if the stage has ended.
func (s *Stage) Done(format string, args ...any) {
	s.end("done in", fmt.Sprintf(format, args...))
}

// Fail ends the stage with a line like "bootstrap  failed after 12s". It does nothing if
// the stage has ended, so that it can be deferred.
func (s *Stage) Fail() { s.end("failed after", "") }

func (s *Stage) end(how, result string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	ended := s.ended
	s.ended = true
	s.mu.Unlock()
	if ended {
		return
	}
	line := join(s.column(), how+" "+rounded(time.Since(s.start)), oneLine(result))
	r := s.reporter
	r.show(func(d display) {
		r.running = slices.DeleteFunc(r.running, func(other *Stage) bool { return other == s })
		d.end(s, line)
	})
	r.saw(s.name, "", true)
}

// state is what the stage shows while it runs.
type state struct {
	total, have int64 // 0 ≤ have ≤ total
	detail      string
}

func (s *Stage) state() state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return state{s.total, max(0, min(s.have, s.total)), s.detail}
}

// percent is empty as long as nobody knows the total.
func (st state) percent() string {
	if st.total <= 0 {
		return ""
	}
	return fmt.Sprintf("%3d%%", int64(100*float64(st.have)/float64(st.total)))
}

// column is the name, as wide as "bootstrap" so that lines align.
func (s *Stage) column() string { return fmt.Sprintf("%-9s", s.name) }

// elapsed is the time since the start as on a clock: 0:12, 1:02:03.
func (s *Stage) elapsed() string {
	sec := int(time.Since(s.start).Seconds())
	if sec < 3600 {
		return fmt.Sprintf("%d:%02d", sec/60, sec%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", sec/3600, sec/60%60, sec%60)
}

// rounded is d in words that are no more exact than a person cares for: 0.4s, 45s, 3m5s.
func rounded(d time.Duration) string {
	if d < 9950*time.Millisecond {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// join puts two spaces between the parts that are not empty.
func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), "  ")
}

// oneLine replaces what would move the cursor: details come from the output of programs.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.TrimSpace(text))
}
