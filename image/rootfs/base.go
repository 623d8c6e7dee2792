package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/lock"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/space"
)

// stageFormat is part of the names of saved trees: count it up when [Tree.Bootstrap]
// makes other trees of the same packages.
const stageFormat = 3

// Options says what a tree is made of, and where.
type Options struct {
	Lock   lock.Lock
	Debs   string    // folder with the lock's packages, see [DebName]
	Stages string    // folder of bootstrapped trees, made if absent; empty: none is kept
	Dir    string    // where the tree is seen in the space, an empty folder
	Log    io.Writer // gets all output of programs
}

// Base makes the tree that debootstrap makes of a lock, or takes it from o.Stages, where
// it is kept. Newest is the time of the newest package.
func Base(ctx context.Context, rep *progress.Reporter, s *space.Space, o Options) (t *Tree, newest time.Time, err error) {
	stage := rep.Stage("bootstrap")
	defer stage.Fail() // of no effect after Done
	debs, err := OpenDebs(o.Debs, o.Lock)
	if err != nil {
		return nil, newest, err
	}
	saved, err := stageName(ctx, o)
	if err != nil {
		return nil, newest, err
	}
	t, err = New(ctx, s, o.Dir, debs.Room(), o.Log)
	if err != nil {
		return nil, newest, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close(context.WithoutCancel(ctx)))
		}
	}()
	if o.Stages == "" {
		err = fs.ErrNotExist
	} else {
		err = t.restore(ctx, stage, saved)
	}
	if err == nil {
		stage.Done("%s, %d packages, as the last time", o.Lock.Sources[0].Codename, len(o.Lock.Packages))
		return t, debs.Newest, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return t, newest, err
	}
	if err := t.Bootstrap(ctx, stage, o.Lock, debs); err != nil {
		return t, newest, err
	}
	if o.Stages != "" {
		stage.Detail("saving it for the next time")
		if err := t.save(ctx, saved); err != nil {
			return t, newest, err
		}
	}
	stage.Done("%s, %d packages", o.Lock.Sources[0].Codename, len(o.Lock.Packages))
	return t, debs.Newest, nil
}

// stageName is the file in which the tree of these options is kept: its name is a digest
// of all that decides the content.
func stageName(ctx context.Context, o Options) (string, error) {
	version, err := command.Output(ctx, command.Cmd{Args: []string{"debootstrap", "--version"}})
	if err != nil {
		return "", err
	}
	type input struct{ Name, SHA256 string }
	var packages []input
	for _, p := range o.Lock.Packages {
		packages = append(packages, input{p.Name, p.SHA256})
	}
	text, err := json.Marshal([]any{stageFormat, string(version), o.Lock.Architecture, o.Lock.Sources[0].Codename, o.Lock.Sources[0].URI, packages})
	if err != nil {
		return "", err
	}
	return filepath.Join(o.Stages, fmt.Sprintf("%s-%s-%.8x.tar", o.Lock.Sources[0].Codename, o.Lock.Architecture, sha256.Sum256(text))), nil
}

// restore reads a saved tree. That there is none is [fs.ErrNotExist].
func (t *Tree) restore(ctx context.Context, stage *progress.Stage, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now) // what was used last is pruned last
	stage.Detail("restoring it from the cache")
	stage.Total(info.Size())
	if err := t.Read(ctx, &counter{Reader: file, stage: stage}); err != nil {
		return fmt.Errorf("the cached tree %s can't be read: remove it and build again: %w", strings.TrimPrefix(path, "./"), err)
	}
	return nil
}

// save writes the tree without compression, the quickest of which would take longer than
// the rest of it.
func (t *Tree) save(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := atomicfile.Create(path, 0o644)
	if err != nil {
		return err
	}
	if err := t.Write(ctx, file.File); err != nil {
		return errors.Join(err, file.Cleanup())
	}
	// The disk has until the tree is closed.
	t.saves.Go(func() error {
		defer file.Cleanup()
		return file.CloseAtomicallyReplace()
	})
	return nil
}

// counter tells a stage how much was read.
type counter struct {
	io.Reader
	stage *progress.Stage
	n     int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	c.stage.Set(c.n)
	return n, err
}
