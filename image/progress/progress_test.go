package progress

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// In a synctest bubble time.Sleep moves a fake clock and takes no time, and a goroutine
// that is left after Close fails the test.

func TestPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := New(&log)
		s := r.Stage("bootstrap")
		time.Sleep(50 * time.Millisecond) // off the reporter's beat
		for i := range 1250 {             // 125 s
			s.Detail("unpacking gcc-%d", i)
			time.Sleep(100 * time.Millisecond)
			if i == 250 {
				r.Note("the mirror is slow")
			}
			if i == 300 {
				s.Total(1250)
			}
			s.Set(int64(i + 1))
		}
		s.Done("%d packages", 156)
		s.Fail()
		s = r.Stage("pack")
		time.Sleep(150 * time.Second)
		s.Fail()
		r.Close()
		want := `bootstrap  started
bootstrap  0:10  unpacking gcc-99
bootstrap  0:20  unpacking gcc-199
the mirror is slow
bootstrap  0:30  unpacking gcc-299
bootstrap  0:40   31%  unpacking gcc-399
bootstrap  0:50   39%  unpacking gcc-499
bootstrap  1:00   47%  unpacking gcc-599
bootstrap  1:10   55%  unpacking gcc-699
bootstrap  1:20   63%  unpacking gcc-799
bootstrap  1:30   71%  unpacking gcc-899
bootstrap  1:40   79%  unpacking gcc-999
bootstrap  1:50   87%  unpacking gcc-1099
bootstrap  2:00   95%  unpacking gcc-1199
bootstrap  done in 2m5s  156 packages
pack       started
pack       0:59
pack       1:59
pack       failed after 2m30s
`
		equal(t, log.String(), want)
	})
}

func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			took           time.Duration
			clock, rounded string
		}{
			{0, "0:00", "0.0s"},
			{960 * time.Millisecond, "0:00", "1.0s"},
			{9949 * time.Millisecond, "0:09", "9.9s"},
			{9950 * time.Millisecond, "0:09", "10s"},
			{185 * time.Second, "3:05", "3m5s"},
			{2*time.Hour + 3*time.Second, "2:00:03", "2h0m3s"},
		} {
			s := &Stage{start: time.Now().Add(-tt.took)}
			if clock, rounded := s.elapsed(), rounded(tt.took); clock != tt.clock || rounded != tt.rounded {
				t.Errorf("%v: got %q and %q, want %q and %q", tt.took, clock, rounded, tt.clock, tt.rounded)
			}
		}
	})
}

func TestTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out output
		r := newReporter(newTerminal(&out), terminalInterval)
		show := func(want ...string) {
			t.Helper()
			synctest.Wait() // for the frame
			equal(t, out.screen(t), strings.Join(want, "\n")+"\n")
		}
		s := r.Stage("bootstrap")
		show("bootstrap  0:00  -")
		s.Detail("unpacking gcc-14\x1b[2J\n")
		time.Sleep(12 * time.Second)
		show("bootstrap  0:12  -  unpacking gcc-14 [2J")
		r.Note("the mirror is slow")
		s.Detail("%s", strings.Repeat("long ", 20))
		time.Sleep(terminalInterval)
		show("the mirror is slow",
			"bootstrap  0:12  |  long long long long long long long long long long long long…")

		s.Detail("layer")
		s.Total(400)
		s.Set(100)
		r.Stage("another stage")
		time.Sleep(terminalInterval)
		show("the mirror is slow",
			"bootstrap      0:12  [=====>----------------]   25%  layer",
			`another stage  0:00  \`)
		s.Total(50)
		time.Sleep(terminalInterval)
		show("the mirror is slow",
			"bootstrap      0:12  [=====================>]  100%  layer",
			"another stage  0:00  |")
		s.Done("%d packages", 156)
		s.Detail("too late")
		s.Done("twice")
		show("the mirror is slow",
			"bootstrap  done in 12s  156 packages",
			"another stage  0:00  -")
		time.Sleep(3 * time.Second)
		r.Note("the last word\n")
		r.Close()
		show("the mirror is slow",
			"bootstrap  done in 12s  156 packages",
			"the last word",
			"another stage  failed after 3.2s")
	})
}

// Notes and final lines must be there once each, and no live line may be left.
func TestManyAtOnce(t *testing.T) {
	for name, start := range map[string]func(w io.Writer) *Reporter{
		"plain":    New,
		"terminal": func(w io.Writer) *Reporter { return newReporter(newTerminal(w), time.Microsecond) },
	} {
		t.Run(name, func(t *testing.T) {
			var out output
			r := start(&out)
			var want []string
			var group sync.WaitGroup
			for i := range 20 {
				name := fmt.Sprintf("stage %02d", i)
				want = append(want, name+" done", name+" note")
				group.Go(func() {
					s := r.Stage(name)
					s.Total(100)
					for j := range 100 {
						s.Detail("step %d", j)
						s.Set(int64(j))
						if j == 50 {
							r.Note("%s note", name)
						}
					}
					s.Done("")
				})
			}
			group.Wait()
			r.Close()
			var got []string
			for line := range strings.Lines(out.screen(t)) {
				before, _, final := strings.Cut(strings.TrimSpace(line), "  done in ")
				if final {
					before = strings.TrimSpace(before) + " done"
				}
				if !strings.HasSuffix(line, "started\n") {
					got = append(got, before)
				}
			}
			slices.Sort(got)
			equal(t, strings.Join(got, "\n"), strings.Join(want, "\n"))
		})
	}
}

func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, d := range []func(io.Writer) display{
			func(w io.Writer) display { return &plain{w: w} },
			func(w io.Writer) display { return newTerminal(w) },
		} {
			var out output
			r := newReporter(d(&out), time.Second)
			r.Close()
			before := out.screen(t)
			r.Stage("late").Done("")
			r.Note("late")
			r.Close()
			equal(t, out.screen(t), before)
		}
	})
}

func TestTerminalGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReporter(newTerminal(brokenWriter{}), terminalInterval)
		s := r.Stage("bootstrap")
		time.Sleep(time.Second)
		r.Note("a word")
		s.Done("")
		r.Stage("pack").Fail()
		r.Close()
	})
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, unix.EIO }

func TestNil(t *testing.T) {
	var r *Reporter
	r.Note("silent")
	s := r.Stage("bootstrap")
	s.Total(1)
	s.Set(1)
	s.Detail("silent")
	if n, err := fmt.Fprint(s, "silent\n"); n != 7 || err != nil {
		t.Errorf("got %d, %v, want 7 bytes written", n, err)
	}
	s.Done("silent")
	s.Fail()
	r.Close()
}

func TestWrite(t *testing.T) {
	r := New(io.Discard)
	defer r.Close()
	s := r.Stage("bootstrap")
	for _, tt := range []struct{ write, want string }{
		{"unpack", ""},
		{"ing gcc-14\nunpacking l", "unpacking gcc-14"},
		{"ibc6\n\n \n", "unpacking libc6"},
		{"\n", "unpacking libc6"},
		{"10%\r20%\r", "20%"},
		{"one\ntwo\nthr", "two"},
		{"ee\r\n", "three"},
	} {
		fmt.Fprint(s, tt.write)
		if got := s.state().detail; got != tt.want {
			t.Errorf("after %q: got %q, want %q", tt.write, got, tt.want)
		}
	}
}

func TestRealTerminal(t *testing.T) {
	tests := []struct {
		name          string
		term, noColor string
		columns       uint16
		want          string
	}{
		{"live", "xterm", "", 40, "a note\nbootstrap  done in 0.0s\n"},
		{"TERM=dumb", "dumb", "", 40, "bootstrap  started\na note\nbootstrap  done in 0.0s\n"},
		{"NO_COLOR", "xterm", "1", 40, "bootstrap  started\na note\nbootstrap  done in 0.0s\n"},
		{"no size", "xterm", "", 0, "bootstrap  started\na note\nbootstrap  done in 0.0s\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("TERM", tt.term)
			t.Setenv("NO_COLOR", tt.noColor)
			terminal, keyboard := openTerminal(t, tt.columns)
			var out output
			ended := make(chan error, 1)
			go func() {
				_, err := io.Copy(&out, keyboard)
				ended <- err
			}()
			r := New(terminal)
			s := r.Stage("bootstrap")
			s.Detail("%s", strings.Repeat("long ", 20))
			r.Note("a note")
			s.Done("")
			r.Close()
			terminal.Close()
			<-ended // reading fails when the last holder of the terminal closed it
			equal(t, out.screen(t), tt.want)
			live := "  long long long long…\r\n"
			if got := strings.Contains(out.text(), live); got != (tt.name == "live") {
				t.Errorf("a line cut to 40 columns: %v in %q", got, out.text())
			}
		})
	}
}

// openTerminal returns the two ends of a pseudoterminal (pty(7)).
func openTerminal(t *testing.T, columns uint16) (terminal, keyboard *os.File) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	check(err)
	t.Cleanup(func() { keyboard.Close() })
	fd := int(keyboard.Fd())
	check(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	check(err)
	check(unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}))
	terminal, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	check(err)
	t.Cleanup(func() { terminal.Close() })
	return terminal, keyboard
}

// output is what a terminal got.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// screen is what a person sees of it. "Cursor up n lines, erase below" is the only
// sequence that mpb uses.
func (o *output) screen(t *testing.T) string {
	t.Helper()
	first, frames, _ := strings.Cut(strings.ReplaceAll(o.text(), "\r\n", "\n"), "\x1b[")
	lines := strings.Split(first, "\n")
	for frame := range strings.SplitSeq(frames, "\x1b[") {
		if up, ok := strings.CutSuffix(frame, "A"); ok {
			n, err := strconv.Atoi(up)
			if err != nil || n >= len(lines) {
				t.Fatalf("up %s of %d lines in %q", up, len(lines), o.text())
			}
			lines = append(lines[:len(lines)-1-n], "")
		} else if text, ok := strings.CutPrefix(frame, "J"); ok {
			lines = append(lines[:len(lines)-1], strings.Split(text, "\n")...)
		} else if frame != "" {
			t.Fatalf("unknown sequence %q", frame)
		}
	}
	return strings.Join(lines, "\n")
}

func equal(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
