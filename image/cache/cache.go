// Package cache keeps what builds and labs have made or downloaded, and forgets what was
// not used for longest.
//
// It is a folder with one folder for each kind of entry. An entry is a file or folder with
// a name that says all that went into it, so that it is never wrong, only unused. Entries
// appear whole: who makes one writes beside it and renames.
package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ephemeral-builder/image/dirlock"
)

// Limit is what [Prune] leaves at most by default, in bytes: some ten images with
// their packages, and the labs' hosts.
const Limit = 10 << 30

// kinds are the folders whose entries may be forgotten at any time that nobody uses the
// cache. Work in progress, logs and what labs run on are looked after by their owners.
var kinds = []string{"bin", "debs", "hosts", "images", "lists", "results", "stages"}

// Dir is the cache's place: below the user's cache folder.
func Dir() string {
	base, err := os.UserCacheDir()
	if err != nil {
		base = "/var/cache" // services have no HOME
	}
	return filepath.Join(base, "ephemeral-builder")
}

// Use makes the cache at dir and keeps it from being pruned until done is called.
func Use(ctx context.Context, dir string) (done func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return dirlock.Share(ctx, dir)
}

// Touch says that an entry was used now.
func Touch(path string) {
	now := time.Now()
	_ = os.Chtimes(path, now, now) // of a cache on a read-only disk nothing is pruned either
}

// Usage is what one kind of entry takes.
type Usage struct {
	Kind    string
	Entries int
	Bytes   int64 // on the disk
}

// Measure returns the usage of each kind that is there, by name, with the folders that are
// not pruned.
func Measure(dir string) ([]Usage, error) {
	folders, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var all []Usage
	for _, folder := range folders {
		if !folder.IsDir() {
			continue
		}
		entries, err := list(filepath.Join(dir, folder.Name()))
		if err != nil {
			return nil, err
		}
		usage := Usage{Kind: folder.Name(), Entries: len(entries)}
		for _, e := range entries {
			usage.Bytes += e.bytes
		}
		all = append(all, usage)
	}
	return all, nil
}

// ErrInUse is what [Prune] finds while builds or labs use the cache.
var ErrInUse = errors.New("the cache is in use: try again when no build runs")

// Prune removes the entries that were not used for longest, until all of them together
// take no more than limit bytes. It returns the bytes that are free now.
func Prune(dir string, limit int64) (freed int64, err error) {
	unlock, ok, err := dirlock.TryLock(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	} else if !ok {
		return 0, ErrInUse
	}
	defer unlock()
	var all []entry
	var total int64
	for _, kind := range kinds {
		entries, err := list(filepath.Join(dir, kind))
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			total += e.bytes
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Or(a.used.Compare(b.used), strings.Compare(a.path, b.path)) })
	for _, e := range all {
		if total-freed <= limit {
			break
		}
		// Half a folder must not pass for a whole one.
		gone := e.path + ".gone"
		if err := os.Rename(e.path, gone); err != nil {
			return freed, err
		}
		if err := os.RemoveAll(gone); err != nil {
			return freed, fmt.Errorf("pruning the cache: %w", err)
		}
		freed += e.bytes
	}
	return freed, nil
}

type entry struct {
	path  string
	used  time.Time
	bytes int64
}

// list returns the entries in one folder; none if it is absent.
func list(dir string) ([]entry, error) {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var all []entry
	for _, name := range names {
		e := entry{path: filepath.Join(dir, name.Name())}
		err := filepath.WalkDir(e.path, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					return nil // of another process: gone meanwhile
				}
				return err
			}
			info, err := d.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			} else if err != nil {
				return err
			}
			if path == e.path {
				e.used = info.ModTime()
			}
			if !d.IsDir() {
				e.bytes += info.Size()
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}
