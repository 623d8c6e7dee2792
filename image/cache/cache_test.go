package cache

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// entryOf makes an entry of some bytes that was used hours ago.
func entryOf(t *testing.T, dir, name string, bytes int, hours time.Duration) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, bytes), 0o644); err != nil {
		t.Fatal(err)
	}
	used := time.Now().Add(-hours * time.Hour)
	if err := os.Chtimes(path, used, used); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	old := entryOf(t, dir, "debs/old.deb", 1000, 3)
	used := entryOf(t, dir, "debs/used.deb", 1000, 3)
	newer := entryOf(t, dir, "stages/newer.tar.zst", 1000, 2)
	inFolder := entryOf(t, dir, "hosts/trixie/host.tar.zst", 1000, 1)
	log := entryOf(t, dir, "log/build.log", 5000, 9)
	Touch(used)

	freed, err := Prune(dir, 2500)
	if err != nil || freed != 2000 {
		t.Errorf("freed %d, %v, want 2000", freed, err)
	}
	for path, want := range map[string]bool{old: false, used: true, newer: false, inFolder: true, log: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: got %v, want it there: %v", path, err, want)
		}
	}
	usage, err := Measure(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []Usage{{"debs", 1, 1000}, {"hosts", 1, 1000}, {"log", 1, 5000}, {"stages", 0, 0}}
	if len(usage) != len(want) {
		t.Fatalf("got %v, want %v", usage, want)
	}
	for i := range want {
		if usage[i] != want[i] {
			t.Errorf("got %v, want %v", usage[i], want[i])
		}
	}
}

func TestPruneWaitsForNobody(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	if freed, err := Prune(dir, 0); freed != 0 || err != nil {
		t.Errorf("no cache: got %d, %v", freed, err)
	}
	done, err := Use(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	another, err := Use(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	path := entryOf(t, dir, "debs/a.deb", 10, 1)
	another()
	if _, err := Prune(dir, 0); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want %v", err, ErrInUse)
	}
	done()
	if freed, err := Prune(dir, 0); freed != 10 || err != nil {
		t.Errorf("got %d, %v, want 10", freed, err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the entry is still there")
	}
}
