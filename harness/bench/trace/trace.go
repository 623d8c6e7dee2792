// Package trace tells which programs start and end on a machine, and when, from the kernel's own
// tracepoints: see Documentation/trace/events.rst in its sources.
package trace

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Event is a program that starts, or a process that comes or goes.
type Event struct {
	At   time.Duration `json:"at"` // of CLOCK_MONOTONIC, see [Now]
	Kind string        `json:"kind"`
	PID  int           `json:"pid"` // of the machine, not of a PID namespace

	Child int    `json:"child,omitempty"` // of [Fork]
	File  string `json:"file,omitempty"`  // of [Exec]
}

// The kinds of events.
const (
	Fork = "fork"
	Exec = "exec"
	Exit = "exit"
)

// tracepoints are the kinds' names below events/ in tracefs.
var tracepoints = map[string]string{Fork: "sched/sched_process_fork", Exec: "sched/sched_process_exec", Exit: "sched/sched_process_exit"}

// Now is the time on the clock of events.
func Now() (time.Duration, error) {
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return time.Duration(now.Nano()), err
}

// Tracer records events in a buffer of its own.
type Tracer struct {
	root     string // of a tracefs that it has mounted
	instance string
}

// Start has the kernel record events, if it can: it needs root, and CONFIG_FTRACE.
func Start() (t *Tracer, err error) {
	root, err := os.MkdirTemp("", "tracefs-")
	if err != nil {
		return nil, err
	}
	if err := unix.Mount("tracefs", root, "tracefs", 0, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("this machine has no tracepoints: mounting tracefs: %w", err), os.Remove(root))
	}
	t = &Tracer{root: root, instance: filepath.Join(root, "instances", fmt.Sprintf("ephemeral-builder-%d", os.Getpid()))}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if err := os.Mkdir(t.instance, 0o755); err != nil {
		return nil, fmt.Errorf("making a buffer for tracepoints: %w", err)
	}
	if err := t.set("trace_clock", "mono"); err != nil {
		return nil, err
	}
	for _, name := range tracepoints {
		if err := t.set("events/"+name+"/enable", "1"); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *Tracer) set(file, value string) error {
	return os.WriteFile(filepath.Join(t.instance, file), []byte(value), 0o644)
}

// Reset forgets what was recorded.
func (t *Tracer) Reset() error { return t.set("trace", "") }

// Events are those since the start, or the last Reset.
func (t *Tracer) Events() ([]Event, error) {
	f, err := os.Open(filepath.Join(t.instance, "trace"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parse(f)
}

// Close ends the recording.
func (t *Tracer) Close() error {
	err := os.Remove(t.instance)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, unix.Unmount(t.root, unix.MNT_DETACH), os.Remove(t.root))
}

// line is one of the file trace, whose comments begin with "#":
//
//	perl-318   [000] .....  7421.046310: sched_process_exec: filename=/bin/sh pid=318 old_pid=318
var line = regexp.MustCompile(`^.*-\d+ +\[\d+\] \S+ +(\d+)\.(\d{6}): sched_process_(fork|exec|exit): (.*)$`)

func parse(r io.Reader) ([]Event, error) {
	var events []Event
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		match := line.FindStringSubmatch(lines.Text())
		if match == nil {
			return nil, fmt.Errorf("what the kernel recorded is not understood: %q", lines.Text())
		}
		seconds, _ := strconv.ParseInt(match[1], 10, 64)
		micros, _ := strconv.ParseInt(match[2], 10, 64)
		e := Event{At: time.Duration(seconds)*time.Second + time.Duration(micros)*time.Microsecond, Kind: match[3]}
		fields := map[string]string{}
		for _, field := range strings.Fields(match[4]) {
			name, value, _ := strings.Cut(field, "=")
			fields[name] = value
		}
		e.PID, _ = strconv.Atoi(fields["pid"])
		switch e.Kind {
		case Exec:
			e.File = fields["filename"]
		case Fork:
			e.Child, _ = strconv.Atoi(fields["child_pid"])
		}
		events = append(events, e)
	}
	return events, lines.Err()
}
