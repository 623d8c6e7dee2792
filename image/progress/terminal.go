package progress

import (
	"io"
	"strings"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// terminalInterval is the time between two frames.
const terminalInterval = 100 * time.Millisecond

// barWidth leaves most of an 80-column line to the detail.
const barWidth = 24

// terminal has a live line for each running stage at the bottom. We drive mpb's
// rendering: on its own it drops what was written after its last frame.
type terminal struct {
	container *mpb.Progress
	frame     chan any
	gone      chan any // closed when the container ended, by close or as the terminal is gone
	bars      map[*Stage]*mpb.Bar
}

func newTerminal(w io.Writer) *terminal {
	t := &terminal{frame: make(chan any), gone: make(chan any), bars: map[*Stage]*mpb.Bar{}}
	t.container = mpb.New(mpb.WithOutput(w), mpb.ForceTTY(), mpb.WithManualRefresh(t.frame), mpb.WithShutdownNotifier(t.gone))
	return t
}

func (t *terminal) start(s *Stage) {
	// Everything is a decorator, as mpb cuts only those to the terminal's width.
	spinner := mpb.SpinnerStyle("-", `\`, "|", "/").Build()
	bar := mpb.BarStyle().Build()
	decorators := mpb.PrependDecorators(
		decor.Any(func(decor.Statistics) string { return s.column() + "  " }, decor.WCSyncWidthR),
		decor.Any(func(decor.Statistics) string { return s.elapsed() + "  " }, decor.WCSyncWidth),
		decor.Any(func(decor.Statistics) string {
			st := s.state()
			var b strings.Builder
			if st.total > 0 {
				_ = bar.Fill(&b, decor.Statistics{AvailableWidth: barWidth, Total: st.total, Current: st.have})
			} else {
				_ = spinner.Fill(&b, decor.Statistics{AvailableWidth: 1})
			}
			return join(b.String(), st.percent(), st.detail)
		}),
	)
	if b, err := t.container.Add(0, nil, decorators, mpb.BarFillerTrim()); err == nil {
		t.bars[s] = b
		t.refresh()
	}
}

func (t *terminal) end(s *Stage, line string) {
	if b := t.bars[s]; b != nil {
		delete(t.bars, s)
		b.Abort(true)
		t.refresh() // the frame that ends the bar still has it
		b.Wait()
	}
	t.note(line)
}

func (t *terminal) note(line string) {
	_, _ = io.WriteString(t.container, line+"\n")
	t.refresh()
}

func (t *terminal) refresh() {
	select {
	case t.frame <- nil:
	case <-t.gone:
	}
}

func (t *terminal) close() { t.container.Shutdown() }
