package plan

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Growth says how many connections to hold at the same time, each with an idle job.
type Growth struct {
	Contender Contender `json:"contender"`
	Levels    []int     `json:"levels"` // numbers of connections, from few to many
	Timeout   Duration  `json:"timeout"`
}

// Level is what the host was like when so many connections had been made.
type Level struct {
	Connections int `json:"connections"`

	Starts  []Duration `json:"starts"`  // from the dial to the end of a command, of those that were made last
	Took    Duration   `json:"took"`    // to make them
	Manager Duration   `json:"manager"` // CPU time of PID 1 meanwhile

	Memory int64 `json:"memory"` // bytes that the machine has in use, caches aside
	Mounts int   `json:"mounts"` // in the host's own mount namespace

	Freed Duration `json:"freed,omitempty"` // of the last: from the close of all until nothing is left of them
}

// Run makes the connections one by one, and hands each level to emit. The first one is that
// without a connection.
func (g Growth) Run(ctx context.Context, emit func(Level) error) error {
	all, err := Plan{Contenders: []Contender{g.Contender}, Rounds: 1, Clients: 1, Each: 1}.targets()
	if err != nil {
		return err
	}
	t := all[0]
	var open []*ssh.Client
	defer func() {
		for _, client := range open {
			_ = client.Close()
		}
	}()
	level, manager, err := settled(ctx)
	if err != nil {
		return err
	}
	if err := emit(level); err != nil {
		return err
	}
	for i, connections := range g.Levels {
		began := time.Now()
		var starts []Duration
		for len(open) < connections {
			client, took, err := t.hold(ctx, g.Timeout)
			if err != nil {
				return fmt.Errorf("connection %d: %w", len(open)+1, err)
			}
			open, starts = append(open, client), append(starts, took)
		}
		took := time.Since(began)
		_, now, err := measure()
		if err != nil {
			return err
		}
		next, _, err := settled(ctx)
		if err != nil {
			return err
		}
		next.Connections, next.Starts, next.Took, next.Manager = connections, starts, took, now-manager
		if i == len(g.Levels)-1 {
			for _, client := range open {
				_ = client.Close()
			}
			next.Freed = t.freed(ctx, g.Timeout)
		}
		if err := emit(next); err != nil {
			return err
		}
		if _, manager, err = measure(); err != nil {
			return err
		}
	}
	return nil
}

// hold is open, with an idle job afterwards.
func (t target) hold(ctx context.Context, timeout time.Duration) (client *ssh.Client, took Duration, err error) {
	s, client := t.open(ctx, nil, "true", timeout)
	if client == nil {
		return nil, 0, errors.New(s.Error)
	}
	idle, err := client.NewSession()
	if err == nil {
		err = idle.Start("exec sleep infinity")
	}
	if err != nil {
		_ = client.Close()
		return nil, 0, err
	}
	return client, s.Done, nil
}

// settled is measure once the machine's memory does not change any more: what was there before
// goes in the kernel's own time, and tells nobody.
func settled(ctx context.Context) (l Level, manager Duration, err error) {
	calm := 0
	for range 20 {
		before := l.Memory
		if l, manager, err = measure(); err != nil {
			return l, 0, err
		}
		if calm++; max(before-l.Memory, l.Memory-before) > 1<<20 {
			calm = 0
		}
		if calm == 3 {
			break
		}
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return l, 0, context.Cause(ctx)
		}
	}
	return l, manager, nil
}

// measure looks at the machine. The second result is the CPU time of PID 1 up to now.
func measure() (Level, Duration, error) {
	var l Level
	memory, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return l, 0, err
	}
	kib := map[string]int64{}
	for line := range strings.Lines(string(memory)) {
		var value int64
		name, rest, _ := strings.Cut(line, ":")
		if _, err := fmt.Sscan(rest, &value); err == nil {
			kib[name] = value
		}
	}
	// tmpfs is in Cached, too, but nothing can take it back.
	l.Memory = (kib["MemTotal"] - kib["MemFree"] - kib["Buffers"] - kib["Cached"] - kib["SReclaimable"] + kib["Shmem"]) << 10
	mounts, err := os.ReadFile("/proc/1/mountinfo")
	if err != nil {
		return l, 0, err
	}
	l.Mounts = strings.Count(string(mounts), "\n")
	ran, err := os.ReadFile("/proc/1/schedstat")
	if err != nil {
		return l, 0, err
	}
	var nanoseconds int64
	if _, err := fmt.Sscan(string(ran), &nanoseconds); err != nil {
		return l, 0, errors.Join(errors.New("reading /proc/1/schedstat"), err)
	}
	return l, Duration(nanoseconds), nil
}
