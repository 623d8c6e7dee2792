// Package logs shows what the journal has of one container, and how it ended.
package logs

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"ephemeral-builder/image/command"
	"ephemeral-builder/units/status"
)

// entry is one of the journal, journalctl(1)'s "json", as far as it is used here.
type entry struct {
	Message    message `json:"MESSAGE"`
	Realtime   string  `json:"__REALTIME_TIMESTAMP"` // microseconds
	ID         string  `json:"MESSAGE_ID"`
	Invocation string  `json:"_SYSTEMD_INVOCATION_ID"` // of the unit's own
	About      string  `json:"INVOCATION_ID"`          // of what systemd says of it
	Identifier string  `json:"SYSLOG_IDENTIFIER"`
	Unit       string  `json:"_SYSTEMD_UNIT"`
}

const fields = "MESSAGE,MESSAGE_ID,_SYSTEMD_INVOCATION_ID,INVOCATION_ID,SYSLOG_IDENTIFIER,_SYSTEMD_UNIT"

// message is a text, or bytes where it is not all of printable characters.
type message string

func (m *message) UnmarshalJSON(text []byte) error {
	var s string
	if json.Unmarshal(text, &s) == nil {
		*m = message(s)
		return nil
	}
	var numbers []int
	if err := json.Unmarshal(text, &numbers); err != nil {
		return err
	}
	var b []byte
	for _, n := range numbers {
		b = append(b, byte(n))
	}
	*m = message(strings.ToValidUTF8(string(b), "?"))
	return nil
}

// The last that systemd says of a unit: sd-messages.h, SD_MESSAGE_UNIT_SUCCESS, _FAILURE_RESULT.
var lastWords = []string{"7ad2d189f7e94e70a38c781354912448", "d9b373ed55a64feb8242e02dbe79a49c"}

// What it says when somebody stops one: SD_MESSAGE_UNIT_STOPPING.
const stoppingWord = "de5b426a63be47a7b6ac3eaac82e2f6f"

func (e entry) time() time.Time {
	micro, _ := strconv.ParseInt(e.Realtime, 10, 64)
	return time.UnixMicro(micro)
}

// Show writes what the journal has of one container of a builder: of that which job names, as
// [status.Find] has it, or which served a client at that port last; of the last one of all if job
// is empty. It goes on until a container that runs has ended, and its last line says how.
func Show(ctx context.Context, w io.Writer, name, job string) error {
	invocation, runs, err := find(ctx, name, job)
	if err != nil {
		return err
	}
	args := []string{"--output=json", "--output-fields=" + fields, "--lines=all", "--quiet"}
	if runs {
		args = append(args, "--follow")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	read, write := io.Pipe()
	ran := make(chan error, 1)
	go func() {
		err := command.Run(ctx, command.Cmd{
			Args: append([]string{"journalctl"}, append(args, "_SYSTEMD_INVOCATION_ID="+invocation, "+", "INVOCATION_ID="+invocation)...), Stdout: write,
		})
		write.CloseWithError(err)
		ran <- err
	}()
	err = show(w, read, runs)
	cancel() // it follows for ever
	read.Close()
	<-ran
	return err
}

// show writes entries up to the last of a unit, and what they come to.
func show(w io.Writer, journal io.Reader, runs bool) error {
	var first time.Time
	var last end
	stopping := false
	lines := bufio.NewScanner(journal)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("reading the journal: %w", err)
		}
		if first.IsZero() {
			first = e.time()
		}
		if parsed, ok := parseEnd(string(e.Message)); ok && e.Invocation != "" {
			last = parsed
			last.took, last.stopped = e.time().Sub(first), stopping
			continue
		}
		if slices.Contains(lastWords, e.ID) {
			break
		}
		stopping = stopping || e.ID == stoppingWord
		for text := range strings.SplitSeq(string(e.Message), "\n") {
			fmt.Fprintf(w, "%s %s\n", e.time().Format("15:04:05.000"), status.Printable(text))
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if last.result == "" {
		if runs {
			return errors.New("the journal ended before the container")
		}
		fmt.Fprintln(w, "how it ended the journal does not say: the host may have been restarted")
		return nil
	}
	fmt.Fprintln(w, last)
	return nil
}

// find is the invocation of a unit, and whether it runs.
func find(ctx context.Context, name, job string) (invocation string, runs bool, err error) {
	unit := ""
	if c, err := status.Find(ctx, name, job); err == nil {
		unit = c.Unit
	} else if job != "" {
		port := strings.TrimPrefix(job, name+"-")
		if _, err := strconv.ParseUint(port, 10, 16); err != nil && !strings.HasPrefix(job, name+"@") {
			return "", false, fmt.Errorf("%s names no container: use its slot, the port of its client, its machine or its unit", job)
		} else if err == nil {
			unit = name + "@*:" + port + ".service"
		} else {
			unit = job
		}
	}
	var match []string
	if unit != "" { // as it took 4.6 s for 30000 units, one for each connection
		match = []string{"--unit=" + unit}
	}
	out, err := command.Output(ctx, command.Cmd{Args: append([]string{"journalctl", "--output=json", "--output-fields=" + fields, "--quiet",
		"--reverse", "--lines=500", "SYSLOG_IDENTIFIER=" + name}, match...)})
	if err != nil && !strings.Contains(err.Error(), "No data available") { // if there is no such unit
		return "", false, err
	}
	var entries []entry // the latest first
	served := map[string]bool{}
	for line := range bytes.Lines(out) {
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return "", false, fmt.Errorf("reading the journal: %w", err)
		}
		entries = append(entries, e)
		// A container that waits says nothing, but that it has ended.
		if _, ended := parseEnd(string(e.Message)); !ended && e.Invocation != "" {
			served[e.Invocation] = true
		}
	}
	for _, e := range entries {
		if served[e.Invocation] {
			now, err := command.Output(ctx, command.Cmd{Args: []string{"systemctl", "show", "--property=InvocationID", "--value", e.Unit}})
			return e.Invocation, err == nil && strings.TrimSpace(string(now)) == e.Invocation, nil
		}
	}
	return "", false, fmt.Errorf("the journal has nothing of %s", cmp.Or(unit, name))
}

// end is what script slot says of a container that has ended.
type end struct {
	took    time.Duration
	stopped bool // by somebody

	result string // of the unit, systemd.exec(5)'s SERVICE_RESULT
	status string // of sshd, or a signal
	values map[string]uint64
}

var ended = regexp.MustCompile(`^ended result=(\S+) code=(\S*) status=(\S*)((?: [a-z_]+=\S*)*)$`)

func parseEnd(text string) (end, bool) {
	match := ended.FindStringSubmatch(text)
	if match == nil {
		return end{}, false
	}
	e := end{result: match[1], status: match[3], values: map[string]uint64{}}
	for _, pair := range strings.Fields(match[4]) {
		key, value, _ := strings.Cut(pair, "=")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil { // "max" is no limit
			e.values[key] = n
		}
	}
	return e, true
}

// String is the closing line.
func (e end) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "ended after %v: %s", e.took.Round(time.Millisecond), e.why())
	if n := e.values["oom_kills"]; n > 0 {
		fmt.Fprintf(&text, "; %d of its processes were killed, as its memory was used up", n)
	}
	if n := e.values["forks_refused"]; n > 0 || e.values["tasks_max"] > 0 && e.values["tasks_peak"] >= e.values["tasks_max"] {
		text.WriteString("; it could not start all of its processes, as its tasks were used up")
	}
	fmt.Fprintf(&text, "; it used %v of CPU time", (time.Duration(e.values["cpu_usec"]) * time.Microsecond).Round(time.Millisecond))
	part := func(what, peak, of string, show func(uint64) string) {
		if e.values[peak] > 0 {
			fmt.Fprintf(&text, ", %s", show(e.values[peak]))
			if e.values[of] > 0 {
				fmt.Fprintf(&text, " of %s", show(e.values[of]))
			}
			text.WriteString(" " + what)
		}
	}
	part("of memory at most", "memory_peak", "memory_max", func(n uint64) string { return fmt.Sprintf("%dM", n>>20) })
	part("tasks at most", "tasks_peak", "tasks_max", func(n uint64) string { return fmt.Sprint(n) })
	return text.String()
}

func (e end) why() string {
	switch {
	case e.result == "timeout" || e.result == "watchdog":
		return "its lifetime was over, or its start took too long"
	case e.result != "success":
		return "systemd calls it " + e.result
	case e.stopped:
		return "it was stopped"
	case e.status == "255" || len(e.status) == 1 && e.status != "1": // sshd's
		return "its client disconnected"
	case e.status == "1":
		return "it was killed, or could not start"
	}
	return "it was ended by " + e.status
}
