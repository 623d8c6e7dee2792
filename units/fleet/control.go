package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"ephemeral-builder/image"
	"ephemeral-builder/image/progress"
)

// heard is when a balancer knows by now what an agent says: twice its agent-inter, and a little.
const heard = 8 * time.Second

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
	if _, err := h.run(ctx, line, nil); err != nil || end {
		return err
	}
	// Those that do not answer here can be there for the balancer.
	mayServe := func(got facts) bool { return got.err != nil || got.Active && !got.Drained && !got.Trial }
	if !slices.ContainsFunc(f.ask(ctx), mayServe) {
		rep.Note("no host takes jobs now: the balancer closes what comes, and does not keep it waiting")
	}
	if !wait {
		return nil
	}
	stage := rep.Stage("drain")
	defer stage.Fail() // of no effect after Done
	told, failed := time.Now().Add(heard), 0
	for again := time.NewTicker(2 * time.Second); ; {
		got := f.askOne(ctx, h)
		switch {
		case got.err != nil:
			if failed++; failed == 3 {
				return got.err
			}
			stage.Detail("%v", got.err)
		case len(got.Containers) == 0 && time.Now().After(told):
			stage.Done("%s has no job", h.Name)
			return nil
		default:
			failed = 0
			stage.Detail("%d jobs on %s", len(got.Containers), h.Name)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Rollback has new connections on a host, or on all of them if name is empty, get the image before.
// At the first error it stops. Of all hosts only those go back that have the newest version: the
// others have not come to it yet, or have gone back before it stopped. Hosts that do not answer are
// left out, if they can't have a newer one: if they have it after the canaries, which all answer.
func (f Fleet) Rollback(ctx context.Context, name string, say func(format string, args ...any)) error {
	newest, answering := "", f.Hosts
	var silent []error
	if name == "" {
		answering = nil
		for i, got := range f.ask(ctx) {
			if got.err != nil {
				if len(f.Canaries()) == 0 || f.Hosts[i].Canary {
					return fmt.Errorf("%w\nit may have a later version than the others: go back on single ones with -host=NAME", got.err)
				}
				silent = append(silent, got.err)
				continue
			}
			answering = append(answering, f.Hosts[i])
			var err error
			if newest, err = later(newest, got.Version); err != nil {
				return err
			}
		}
	}
	err := f.each(ctx, name, answering, func(h Host) error {
		if got := f.askOne(ctx, h); name == "" && got.err == nil && got.Version != newest {
			say("%s: has version %s, and not %s", h.Name, got.Version, newest)
			return nil
		}
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
	return errors.Join(append(silent, err)...)
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
			return fmt.Errorf("%s does not update itself: install there once with -autoUpdate, or each version by hand where systemd is that of Debian 12", h.Name)
		}
		stage.Detail("from version %s", before.Version)
		said, err := h.run(ctx, fmt.Sprintf(updateNow, f.Name), nil)
		if err != nil {
			return fmt.Errorf("%w\nthe hosts after it go on with what they have", err)
		}
		after := f.askOne(ctx, h)
		if after.err != nil {
			return after.err
		}
		if refused, err := after.refused(); err != nil {
			return err
		} else if refused != "" {
			return fmt.Errorf("%s: version %s does not serve: publish a later one\nthe hosts after it go on with what they have", h.Name, refused)
		}
		stage.Done("version %s", after.Version)
		if untried := untriedLine.FindString(string(said)); untried != "" {
			say("%s: version %s, was %s: %s", h.Name, after.Version, before.Version, untried)
		} else if after.Version == before.Version {
			say("%s: has version %s, as before\n%s", h.Name, after.Version, strings.TrimSpace(string(said)))
		} else {
			say("%s: version %s serves, was %s", h.Name, after.Version, before.Version)
		}
		return nil
	})
}

// updateNow waits for an update's end, and prints what it had to say.
const updateNow = `since=$(journalctl --quiet --lines=0 --show-cursor | sed 's/^-- cursor: //')
systemctl start %[1]s-update.service && to=1 || to=2
journalctl --sync
journalctl --quiet --unit=%[1]s-update --identifier=perl --identifier=systemd-sysupdate --after-cursor="$since" --output=cat --no-pager | tail -n 5 >&$to
[ "$to" = 1 ]`

// untriedLine is of script update, if no slot was free for a login.
var untriedLine = regexp.MustCompile(`(?m)^untried: .*`)

// later is the later of two versions, of which the first may be empty.
func later(a, b string) (string, error) {
	newest, err := image.Newest([]string{"_" + cmp.Or(a, b), "_" + b})
	return strings.TrimPrefix(newest, "_"), err
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
