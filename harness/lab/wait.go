package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/fsnotify/fsnotify"
)

// patience is how long a boot may take; by TCG everything takes about 20 times longer.
func (l *Lab) patience() time.Duration {
	if l.desc.Accel == TCG {
		return 5 * time.Minute
	}
	return time.Minute
}

// Boots returns how many times the lab has come up: 1 after Start.
func (l *Lab) Boots() (int, error) {
	data, err := os.ReadFile(l.path(readyFile))
	return bytes.Count(data, []byte("\n")), err
}

// WaitBoot waits until the lab has come up for the nth time and lets root in. To wait for
// a reboot, call it with one more than [Lab.Boots] before. It fails at once if the lab
// ends or its console shows that the boot has failed, else after one minute, or five if
// the lab is a VM by TCG.
func (l *Lab) WaitBoot(ctx context.Context, n int) error {
	limit := l.patience()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not up after %v", limit))
	defer cancel()
	err := l.await(ctx, func() (bool, error) {
		lines, err := l.console.lines()
		if err == nil {
			err = trouble(lines)
		}
		if err != nil {
			return false, err
		}
		if l.desc.Accel == KVM {
			if err := l.kvmTrouble(); err != nil {
				return false, err
			}
		}
		boots, err := l.Boots()
		return boots >= n, err
	})
	if errors.Is(err, errEnded) && l.desc.Kind == VM {
		return l.qemuEnded()
	} else if err != nil {
		return err
	}
	client, err := l.Dial(ctx)
	if err != nil {
		return fmt.Errorf("logging in as root: %w", err)
	}
	return client.Close()
}

// errEnded is what await returns when the lab ends before what it waits for.
var errEnded = errors.New("the lab has ended")

// await calls check whenever a file of the lab's directory changes, until it returns true
// or an error, the lab ends, or ctx does.
func (l *Lab) await(ctx context.Context, check func() (bool, error)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Add(l.desc.Dir); err != nil {
		return err
	}
	for ended := false; ; {
		if done, err := check(); done || err != nil {
			return err
		}
		if ended {
			return errEnded
		}
		select {
		case <-watcher.Events:
		case <-watcher.Errors: // events were lost: look again
		case <-l.exited:
			ended = true // and what it said last is in the files now
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// settle waits until the journal has not grown for a second. It lags behind by half of
// one, as journald and journalctl both collect changes, and why a boot has failed is what
// it says last.
func (l *Lab) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for l.exited != nil && ctx.Err() == nil {
		before, err := os.Stat(l.path(JournalLog))
		if err != nil {
			return
		}
		quiet, cancel := context.WithTimeout(ctx, time.Second)
		err = l.await(quiet, func() (bool, error) {
			now, err := os.Stat(l.path(JournalLog))
			return err == nil && now.Size() != before.Size(), err
		})
		cancel()
		if err != nil {
			return
		}
	}
}
