package logs

import (
	"strings"
	"testing"
)

const journal = `{"MESSAGE":"Started x.","__REALTIME_TIMESTAMP":"1767323045000000","INVOCATION_ID":"i"}
{"MESSAGE":[97,27,255,98],"__REALTIME_TIMESTAMP":"1767323046500000","_SYSTEMD_INVOCATION_ID":"i"}
{"MESSAGE":"ended result=success code=exited status=255 cpu_usec=56337 memory_peak=10485760 memory_max=max oom_kills=2 tasks_peak=64 tasks_max=64 forks_refused=0","__REALTIME_TIMESTAMP":"1767323047000000","_SYSTEMD_INVOCATION_ID":"i"}
{"MESSAGE":"x: Deactivated successfully.","MESSAGE_ID":"7ad2d189f7e94e70a38c781354912448","__REALTIME_TIMESTAMP":"1767323047100000","INVOCATION_ID":"i"}
{"MESSAGE":"x: Consumed.","__REALTIME_TIMESTAMP":"1767323047200000","INVOCATION_ID":"i"}
`

func TestShow(t *testing.T) {
	var out strings.Builder
	if err := show(&out, strings.NewReader(journal), true); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || !strings.HasSuffix(lines[0], ".000 Started x.") || !strings.Contains(lines[1], "a") {
		t.Errorf("it shows\n%s", out.String())
	}
	const want = "ended after 2s: its client disconnected; 2 of its processes were killed, as its memory was used up; " +
		"it could not start all of its processes, as its tasks were used up; it used 56ms of CPU time, 10M of memory at most, 64 of 64 tasks at most"
	if lines[2] != want {
		t.Errorf("the last line is\n%s\nwant\n%s", lines[2], want)
	}
}

func TestShowStopped(t *testing.T) {
	first, rest, _ := strings.Cut(journal, "\n")
	const stopping = `{"MESSAGE":"Stopping x.","MESSAGE_ID":"de5b426a63be47a7b6ac3eaac82e2f6f","__REALTIME_TIMESTAMP":"1767323045100000","INVOCATION_ID":"i"}`
	var out strings.Builder
	if err := show(&out, strings.NewReader(first+"\n"+stopping+"\n"+rest), true); err != nil || !strings.Contains(out.String(), "\nended after 2s: it was stopped; ") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// What is not there is not made up.
func TestShowWithoutEnd(t *testing.T) {
	first, _, _ := strings.Cut(journal, "\n")
	var out strings.Builder
	if err := show(&out, strings.NewReader(first), false); err != nil || !strings.Contains(out.String(), "the journal does not say") {
		t.Errorf("%v\n%s", err, out.String())
	}
	if err := show(&out, strings.NewReader(first), true); err == nil {
		t.Error("a journal that ends before its container is no error")
	}
}

func TestWhy(t *testing.T) {
	for text, want := range map[string]string{
		"ended result=timeout code=killed status=TERM":   "lifetime",
		"ended result=watchdog code=killed status=TERM":  "lifetime",
		"ended result=success code=exited status=0":      "disconnected",
		"ended result=success code=exited status=5":      "disconnected",
		"ended result=success code=exited status=1":      "could not start",
		"ended result=success code=killed status=KILL":   "ended by KILL",
		"ended result=resources code= status=":           "resources",
		"ended result=success code=exited status=143 a=": "ended by 143",
	} {
		e, ok := parseEnd(text)
		if !ok || !strings.Contains(e.why(), want) {
			t.Errorf("%s: %v, %q, want %q", text, ok, e.why(), want)
		}
	}
	// Jobs can write to sshd's log, if not whole lines of their own.
	for _, text := range []string{"Invalid user ended result=success code=exited status=0", "ended result=success", "ended result=success code=exited status=0 and more"} {
		if e, ok := parseEnd(text); ok {
			t.Errorf("%s is taken for the end: %+v", text, e)
		}
	}
}
