// Package dirlock locks a folder against other processes, with flock(2) on the folder
// itself, so that no lock file stays behind and a killed holder frees it.
package dirlock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Lock waits for the exclusive lock of dir, which must exist, until ctx is done. The
// lock is per open file: it holds against this process's other calls too.
func Lock(ctx context.Context, dir string) (unlock func(), err error) {
	return lock(ctx, dir, syscall.LOCK_EX)
}

// Share is [Lock] for any number of holders at once, none of which has it exclusively.
func Share(ctx context.Context, dir string) (unlock func(), err error) {
	return lock(ctx, dir, syscall.LOCK_SH)
}

func lock(ctx context.Context, dir string, how int) (unlock func(), err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	locked := make(chan error, 1)
	go func() { locked <- flock(f, how) }()
	select {
	case err = <-locked:
	case <-ctx.Done():
		// The call can't be interrupted: take the lock when it comes, and give it back.
		go func() { <-locked; f.Close() }()
		return nil, fmt.Errorf("waiting for the lock of %s: %w", dir, context.Cause(ctx))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// Make is [Lock] for a folder that is made if absent and that its holder may remove.
func Make(ctx context.Context, dir string) (unlock func(), err error) {
	for {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		before, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		unlock, err := Lock(ctx, dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		// The last holder may have removed it while we waited.
		if after, err := os.Stat(dir); err == nil && os.SameFile(before, after) {
			return unlock, nil
		}
		unlock()
	}
}

// TryLock is [Lock] that does not wait: ok is false if somebody else has it.
func TryLock(dir string) (unlock func(), ok bool, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, false, err
	}
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if err == syscall.EWOULDBLOCK {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { f.Close() }, true, nil
}

func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); err != syscall.EINTR {
			return err
		}
	}
}
