package status

import (
	"strings"
	"testing"
	"time"
)

func TestText(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := Builder{
		Name: "tools", Listen: "127.0.0.1:24", Active: true, Version: "2", Slots: 4, Free: 2, Accepted: 7, Refused: 1,
		Images: []Image{{"1", false, 1, false}, {"2", true, 1, false}, {"3", false, 0, true}},
		Containers: []Container{
			{Slot: 3, Client: "127.0.0.1:51500", Since: now.Add(-90 * time.Minute), Version: "1", CPU: 61500 * time.Millisecond,
				Memory: 200 << 20, Peak: 11 << 30, MemoryMax: 12 << 30, Tasks: 7, TasksMax: 64, Command: "make \x1b]0;evil\a -j"},
			{Slot: 0, Client: "port 7", Since: now.Add(-1500 * time.Millisecond), Version: "2"},
		},
	}
	const want = `tools listens on 127.0.0.1:24, with version 2
2 of 4 slots serve, 2 are free; 7 connections accepted, 1 refused since the socket's start
images: 1 in use by 1, 2 (current) in use by 1, 3 (does not serve)

SLOT  FOR    CLIENT           VERSION  CPU   MEMORY  PEAK   OF     TASKS  OF  COMMAND
3     1h30m  127.0.0.1:51500  1        1m2s  200M    11.0G  12.0G  7      64  make ?]0;evil? -j
0     1.5s   port 7           2        0.0s  -       -      -      -      -   
`
	if got := Text([]Builder{b}, now, 0); got != want {
		t.Errorf("it is\n%s\nwant\n%s", got, want)
	}
	for line := range strings.Lines(Text([]Builder{b}, now, 40)[strings.Index(want, "SLOT"):]) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 40 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	b.Active, b.Waiting = false, 2
	if got := Text([]Builder{b}, now, 0); !strings.Contains(got, "does not listen") || !strings.Contains(got, "2 wait for a connection") {
		t.Errorf("it is\n%s", got)
	}
	if got := Text(nil, now, 0); !strings.Contains(got, "no builder is installed") {
		t.Errorf("it is\n%s", got)
	}
}

func TestIs(t *testing.T) {
	c := Container{Unit: "tools@9-127.0.0.1:24-127.0.0.1:51500.service", Slot: 3, Machine: "tools-51500", Client: "127.0.0.1:51500"}
	for _, job := range []string{"3", "51500", "tools-51500", c.Unit, strings.TrimSuffix(c.Unit, ".service")} {
		if !c.Is(job) {
			t.Errorf("%s is not the container", job)
		}
	}
	for _, job := range []string{"9", "24", "tools", "1500"} {
		if c.Is(job) {
			t.Errorf("%s is the container", job)
		}
	}
}
