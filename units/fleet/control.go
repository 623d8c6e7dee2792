package fleet

import (
	"context"
	"fmt"
	"time"

	"ephemeral-builder/image/progress"
)

// Drain has balancers send a host nothing new, or again what comes. With wait it returns when no job
// runs there.
func (f Fleet) Drain(ctx context.Context, rep *progress.Reporter, name string, end, wait bool) error {
	h, err := f.Host(name)
	if err != nil {
		return err
	}
	line := "ephemeral-builder drain -name=" + f.Name
	if end {
		line += " -end"
	}
	if _, err := h.run(ctx, line, nil); err != nil || end || !wait {
		return err
	}
	stage := rep.Stage("drain")
	defer stage.Fail() // of no effect after Done
	for again := time.NewTicker(2 * time.Second); ; {
		got := f.askOne(ctx, h)
		switch {
		case got.err != nil:
			return got.err
		case len(got.Containers) == 0:
			stage.Done("%s has no job", h.Name)
			return nil
		}
		stage.Detail("%d jobs on %s", len(got.Containers), h.Name)
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Rollback has new connections on a host, or on all of them if name is empty, get the image before.
// At the first error it stops.
func (f Fleet) Rollback(ctx context.Context, name string, say func(format string, args ...any)) error {
	return f.each(ctx, name, f.Hosts, func(h Host) error {
		_, err := h.run(ctx, "ephemeral-builder rollback -name="+f.Name, nil)
		if err != nil {
			return err
		}
		got := f.askOne(ctx, h)
		if got.err == nil {
			say("%s: new connections get version %s", h.Name, got.Version)
		}
		return got.err
	})
}

// Update has hosts do now what their timers would: canaries first, and the next only if the last one
// serves with what it installed. The others go on with what they have.
func (f Fleet) Update(ctx context.Context, rep *progress.Reporter, name string, say func(format string, args ...any)) error {
	var order []Host
	for _, canary := range []bool{true, false} {
		for _, h := range f.Hosts {
			if h.Canary == canary {
				order = append(order, h)
			}
		}
	}
	return f.each(ctx, name, order, func(h Host) error {
		stage := rep.Stage(h.Name)
		defer stage.Fail() // of no effect after Done
		before := f.askOne(ctx, h)
		if before.err != nil {
			return before.err
		}
		if before.Updates == "none" {
			return fmt.Errorf("%s does not update itself: install there once with -autoUpdate", h.Name)
		}
		stage.Detail("from version %s", before.Version)
		if _, err := h.run(ctx, fmt.Sprintf("systemctl start %s-update.service || { journalctl --unit=%[1]s-update --lines=5 --output=cat --no-pager >&2; exit 1; }", f.Name), nil); err != nil {
			return fmt.Errorf("%w\nit goes on with what it had, and so do the hosts after it", err)
		}
		after := f.askOne(ctx, h)
		if after.err != nil {
			return after.err
		}
		stage.Done("version %s", after.Version)
		if after.Version == before.Version {
			say("%s: has version %s, as before", h.Name, after.Version)
		} else {
			say("%s: version %s serves, was %s", h.Name, after.Version, before.Version)
		}
		return nil
	})
}

// each does something on one host, or on those of a list in turn up to the first error.
func (f Fleet) each(ctx context.Context, name string, order []Host, do func(Host) error) error {
	if name != "" {
		h, err := f.Host(name)
		if err != nil {
			return err
		}
		order = []Host{h}
	}
	for _, h := range order {
		if err := do(h); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}
