package trace

import (
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"
)

const recorded = `# tracer: nop
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
         systemd-1       [001] .....  7421.045000: sched_process_fork: comm=systemd pid=1 child_comm=systemd child_pid=318
       (sd-stub)-318     [000] d..2.  7421.046310: sched_process_exec: filename=/bin/sh pid=318 old_pid=318
            a b-c-318     [000] .....  7421.050001: sched_process_exit: comm=a b-c pid=318 prio=120 group_dead=true
`

func TestParse(t *testing.T) {
	got, err := parse(strings.NewReader(recorded))
	want := []Event{
		{At: 7421045 * time.Millisecond, Kind: Fork, PID: 1, Child: 318},
		{At: 7421046310 * time.Microsecond, Kind: Exec, PID: 318, File: "/bin/sh"},
		{At: 7421050001 * time.Microsecond, Kind: Exit, PID: 318},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if _, err := parse(strings.NewReader("CPU:0 [LOST 12 EVENTS]\n")); err == nil {
		t.Error("lost events passed")
	}
}

func TestTracer(t *testing.T) {
	tracer, err := Start()
	if err != nil {
		t.Skipf("needs root and tracepoints: %v", err)
	}
	defer func() {
		if err := tracer.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(tracer.root); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", tracer.root, err)
		}
	}()
	if err := exec.Command("/bin/true").Run(); err != nil {
		t.Fatal(err)
	}
	if err := tracer.Reset(); err != nil {
		t.Fatal(err)
	}
	before, err := Now()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/false")
	_ = cmd.Run()
	after, _ := Now()
	events, err := tracer.Events()
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]Event{}
	for _, e := range events {
		if e.Kind == Exec {
			programs[e.File] = e
		}
	}
	e, ok := programs["/bin/false"]
	if !ok || e.At < before || e.At > after {
		t.Errorf("no /bin/false between %v and %v in %+v", before, after, events)
	}
	if _, ok := programs["/bin/true"]; ok {
		t.Error("Reset has kept what was before")
	}
}
