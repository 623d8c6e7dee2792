package dirlock

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

func TestLock(t *testing.T) {
	dir := t.TempDir()
	unlock, err := Lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := TryLock(dir); ok || err != nil {
		t.Fatalf("second TryLock: got %v, %v, want false, nil", ok, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := Lock(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("second Lock: got %v, want deadline exceeded", err)
	}
	next := make(chan error)
	go func() {
		unlock, err := Lock(t.Context(), dir)
		if err == nil {
			unlock()
		}
		next <- err
	}()
	unlock()
	if err := <-next; err != nil {
		t.Fatalf("lock after unlock: %v", err)
	}
}

func TestMakeAfterRemoval(t *testing.T) {
	dir := t.TempDir() + "/work"
	unlock, err := Make(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	next := make(chan error)
	go func() {
		unlock, err := Make(t.Context(), dir)
		if err == nil {
			_, err = os.Stat(dir)
			unlock()
		}
		next <- err
	}()
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	unlock()
	if err := <-next; err != nil {
		t.Fatalf("the next holder has no folder: %v", err)
	}
}

func TestLockOfMissingFolder(t *testing.T) {
	if _, err := Lock(t.Context(), t.TempDir()+"/none"); err == nil {
		t.Error("locking a missing folder succeeded")
	}
}
