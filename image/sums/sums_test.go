package sums

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"ephemeral-builder/image/dirlock"
)

// sha256 of "one\n", "two\n" and "", as sha256sum(1) prints them
const (
	sumOne   = "2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806"
	sumTwo   = "27dd8ed44a83ff94d557f9fd0412ed5a8cbca69ea04922d88c01184a07300a5a"
	sumEmpty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// write makes a directory with the given files.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, dir string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, Name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestUpdate(t *testing.T) {
	files := map[string]string{"a": "one\n", "b": "two\n", "BEST-BEFORE-2030-01-01": ""}
	defer unix.Umask(unix.Umask(0o077)) // must not matter
	tests := []struct {
		name   string
		before string // SHA256SUMS; none if empty
		update []string
		want   string
	}{
		{"first", "", []string{"b", "a"}, sumOne + "  a\n" + sumTwo + "  b\n"},
		{"sorted bytewise", "", []string{"a", "BEST-BEFORE-2030-01-01"}, sumEmpty + "  BEST-BEFORE-2030-01-01\n" + sumOne + "  a\n"},
		{"others are kept unhashed", sumEmpty + "  a\n", []string{"b"}, sumEmpty + "  a\n" + sumTwo + "  b\n"},
		{"hashed anew", sumEmpty + "  b\n", []string{"b"}, sumTwo + "  b\n"},
		{"binary form", sumOne + " *a\n", []string{"b"}, sumOne + "  a\n" + sumTwo + "  b\n"},
		{"upper case", strings.ToUpper(sumOne) + "  a\n", nil, sumOne + "  a\n"},
		{"gone", sumOne + "  a\n" + sumOne + "  gone\n", nil, sumOne + "  a\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := write(t, files)
			if test.before != "" {
				if err := os.WriteFile(filepath.Join(dir, Name), []byte(test.before), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := Update(t.Context(), dir, test.update...); err != nil {
				t.Fatal(err)
			}
			if got := read(t, dir); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			info, err := os.Stat(filepath.Join(dir, Name))
			if err != nil || info.Mode() != 0o644 {
				t.Errorf("got mode %v, %v, want 0644", info.Mode(), err)
			}
			if list, _ := os.ReadDir(dir); len(list) != len(files)+1 {
				t.Errorf("got files %v, want only %s beside the others", list, Name)
			}
		})
	}
}

func TestUpdateErrors(t *testing.T) {
	good := sumTwo + "  b\n"
	tests := []struct {
		name, before, update, want string
	}{
		{"missing", good, "missing", "no such file"},
		{"other directory", good, "../a", "bare name"},
		{"itself", good, Name, "bare name"},
		{"empty name", good, "", "bare name"},
		{"newline", good, "a\nb", "bare name"},
		{"directory", good, "dir", "not a regular file"},
		{"fifo", good, "fifo", "not a regular file"},
		{"single space", good + sumOne + " a\n", "a", Name + ":2: got"},
		{"short sum", sumOne[1:] + "  a\n", "a", Name + ":1: got"},
		{"no hex", "g" + sumOne[1:] + "  a\n", "a", Name + ":1: encoding/hex"},
		{"path", sumOne + "  ./a\n", "a", "bare name"},
		{"cut short", good + sumOne + "  a", "a", Name + ":2: line without an end"},
		{"twice", sumOne + "  a\n" + sumTwo + "  a\n", "a", `:2: "a" is listed twice`},
		{"too long", "", "long", "1 MiB"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := write(t, map[string]string{"a": "one\n", "b": "two\n", Name: test.before})
			if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
				t.Fatal(err)
			}
			names := []string{test.update}
			if test.update == "long" {
				names = names[:0]
				for i := range maxSize/320 + 1 {
					name := fmt.Sprintf("%0255d", i)
					names = append(names, name)
					if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
				}
			}
			err := Update(t.Context(), dir, names...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want …%s…", err, test.want)
			}
			if got := read(t, dir); got != test.before {
				t.Errorf("got %q, want it unchanged: %q", got, test.before)
			}
		})
	}
}

// TestConcurrentUpdates loses lines if two updates read the same state.
func TestConcurrentUpdates(t *testing.T) {
	files := map[string]string{}
	for i := range 32 {
		files[fmt.Sprint(i)] = "one\n"
	}
	dir := write(t, files)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for name := range files {
		wg.Go(func() {
			<-start
			if err := Update(t.Context(), dir, name); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	wg.Wait()
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := maps.Clone(files)
	for name := range want {
		want[name] = sumOne
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %d of %d lines: %v", len(got), len(want), got)
	}
}

func TestCancel(t *testing.T) {
	dir := write(t, map[string]string{"a": "one\n", Name: sumEmpty + "  a\n"})
	cause := errors.New("stopped by test")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := Update(ctx, dir, "a"); !errors.Is(err, cause) {
		t.Errorf("update: got %v, want %v", err, cause)
	}
	if err := Verify(ctx, dir, "a"); !errors.Is(err, cause) {
		t.Errorf("verify: got %v, want %v", err, cause)
	}
	if got, want := read(t, dir), sumEmpty+"  a\n"; got != want {
		t.Errorf("got %q, want it unchanged: %q", got, want)
	}
}

func TestCancelWhileLocked(t *testing.T) {
	dir := write(t, map[string]string{"a": "one\n"})
	unlock, err := dirlock.Lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("stopped by test")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error)
	go func() { done <- Update(ctx, dir, "a") }()
	select {
	case err := <-done:
		t.Fatalf("got %v from an update of a locked directory", err)
	default:
		cancel(cause)
	}
	if err := <-done; !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}

	unlock() // what waited in vain lets go of the lock by itself
	if err := Update(t.Context(), dir, "a"); err != nil {
		t.Error(err)
	}
}

func TestVerify(t *testing.T) {
	dir := write(t, map[string]string{
		"good": "one\n", "bad": "one\n", "unlisted": "one\n",
		Name: sumOne + "  good\n" + sumTwo + "  bad\n" + sumOne + "  gone\n",
	})
	none := write(t, map[string]string{"good": "one\n"})
	tests := []struct {
		dir, name string
		want      error
		remedy    string
	}{
		{dir, "good", nil, ""},
		{dir, "bad", ErrMismatch, "got " + sumOne + ", want " + sumTwo + "): fetch both again"},
		{dir, "gone", ErrMissing, ": fetch it again"},
		{dir, "unlisted", ErrNotListed, ": check the name, or fetch the current SHA256SUMS"},
		{none, "good", ErrNoSums, ": publish into it, or fetch"},
	}
	for _, test := range tests {
		err := Verify(t.Context(), test.dir, test.name)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
		if test.want != nil && !strings.Contains(err.Error(), test.remedy) {
			t.Errorf("%s: got %q, want …%s…", test.name, err, test.remedy)
		}
	}
}
