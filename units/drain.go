package units

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"ephemeral-builder/image/progress"
)

// waitForOthers returns when no container of a builder has another version of the image.
func waitForOthers(ctx context.Context, rep *progress.Reporter, name, version string) error {
	stage := rep.Stage("drain")
	defer stage.Fail() // of no effect after Done
	used := filepath.Join(RunDir, name, "used")
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Add(used); err != nil {
		return fmt.Errorf("watching %s: is the socket started? %w", used, err)
	}
	start := time.Now()
	for {
		_, current, err := Versions(name)
		if err != nil {
			return err
		}
		if current != version {
			return fmt.Errorf("new connections get version %s by now, and not %s: the wait is over", current, version)
		}
		others, err := others(used, name+"_"+version)
		if err != nil {
			return err
		}
		if len(others) == 0 {
			stage.Done("all containers have version %s, after %v", version, time.Since(start).Round(time.Second))
			return nil
		}
		stage.Detail("%d containers have another version than %s: slots %s", len(others), version, strings.Join(others, ", "))
		select {
		case <-watcher.Events:
		// Where the link leads is not watched, and with the slots' unit the folder is new.
		case <-time.After(5 * time.Second):
			_ = watcher.Add(used)
		case err := <-watcher.Errors:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// others are the slots of containers with another image.
func others(used, tree string) (slots []string, err error) {
	entries, err := os.ReadDir(used)
	if errors.Is(err, fs.ErrNotExist) { // the socket was stopped
		err = nil
	}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(used, entry.Name()))
		if err == nil && strings.TrimSpace(string(text)) != tree { // else it has just ended
			slot, _, _ := strings.Cut(entry.Name(), ":")
			slots = append(slots, slot)
		}
	}
	return slots, err
}
