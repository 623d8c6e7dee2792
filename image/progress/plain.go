package progress

import (
	"fmt"
	"io"
	"time"
)

const (
	// quiet is the least time between two lines of a running stage, so that a log stays short.
	quiet = 10 * time.Second
	// silent is the most: a stage with nothing new to say shows that it is alive.
	silent = time.Minute
)

// plain writes lines to a log.
type plain struct {
	w       io.Writer
	running []*logged
}

// logged is a stage and the last that the log says of it.
type logged struct {
	stage *Stage
	text  string
	at    time.Time
}

func (p *plain) start(s *Stage) {
	p.running = append(p.running, &logged{stage: s, at: s.start})
	p.note(join(s.column(), "started"))
}

func (p *plain) end(s *Stage, line string) {
	for i, l := range p.running {
		if l.stage == s {
			p.running = append(p.running[:i], p.running[i+1:]...)
			break
		}
	}
	p.note(line)
}

func (p *plain) note(line string) { fmt.Fprintln(p.w, line) }

func (p *plain) refresh() {
	for _, l := range p.running {
		st := l.stage.state()
		text := join(st.percent(), st.detail)
		since := time.Since(l.at).Round(time.Second) // a tick may come early
		if since < quiet || text == l.text && since < silent {
			continue
		}
		p.note(join(l.stage.column(), l.stage.elapsed(), text))
		l.text, l.at = text, time.Now()
	}
}

func (p *plain) close() {}
