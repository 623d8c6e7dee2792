// Package doctor looks for all that would keep a builder on this host from serving, and says what
// to do about it.
package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"ephemeral-builder/image/spec"
	"ephemeral-builder/units"
)

// State is how bad a finding is.
type State string

// States.
const (
	OK   State = "ok"
	Warn State = "warn" // jobs run, but something is not as it should be
	Fail State = "fail" // jobs fail, or lose something
)

// Finding is what one check has found.
type Finding struct {
	Check string `json:"check"`
	State State  `json:"state"`
	What  string `json:"what"`
	Why   string `json:"why,omitempty"` // it matters; empty if all is well
	Do    string `json:"do,omitempty"`
}

func ok(format string, args ...any) Finding {
	return Finding{State: OK, What: fmt.Sprintf(format, args...)}
}

func warn(what, why, do string) Finding { return Finding{State: Warn, What: what, Why: why, Do: do} }
func fail(what, why, do string) Finding { return Finding{State: Fail, What: what, Why: why, Do: do} }

// unknown is for what could not be looked at.
func unknown(err error) Finding {
	return warn(err.Error(), "this could not be looked at", "run it as root on the host itself, with sudo")
}

// check is one look. It returns at least one finding.
type check struct {
	name string
	look func(context.Context, subject) []Finding
}

// subject is what is looked at.
type subject struct {
	spec.Spec
	keys units.Keys
}

// checks are in the order in which things are needed.
var checks = []check{
	{"systemd", systemdVersion},
	{"kernel", kernel},
	{"cgroups", cgroups},
	{"user namespaces", userNamespaces},
	{"programs", programs},
	{"disk", disk},
	{"memory", memory},
	{"terminals", terminals},
	{"inotify", inotify},
	{"clock", clock},
	{"image", currentImage},
	{"cache", jobCache},
	{"git mirror", gitMirror},
	{"socket", socket},
	{"slots", slots},
	{"network", network},
	{"keys", keyFiles},
	{"certificate", certificate},
	{"agent", agent},
	{"runner", runnerConfig},
	{"artifacts", artifacts},
	{"connection", connection},
}

// Run looks at everything, for the builder of a spec.
func Run(ctx context.Context, s spec.Spec) ([]Finding, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("most of what it looks at is root's: run it with sudo")
	}
	var all []Finding
	on := subject{s, units.KeysOf(s.Name)}
	for _, c := range checks {
		if ctx.Err() != nil {
			break
		}
		for _, f := range c.look(ctx, on) {
			f.Check = c.name
			all = append(all, f)
		}
	}
	return all, context.Cause(ctx)
}

// Failed counts the findings that are failures.
func Failed(all []Finding) (count int) {
	for _, f := range all {
		if f.State == Fail {
			count++
		}
	}
	return count
}

// Print writes a line for each finding, with two more where something is to be done; or JSON.
func Print(w io.Writer, all []Finding, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(all)
	}
	var text strings.Builder
	for _, f := range all {
		fmt.Fprintf(&text, "%-4s  %-15s  %s\n", f.State, f.Check, f.What)
		if f.State != OK {
			indent := strings.Repeat(" ", 6)
			fmt.Fprintf(&text, "%s%s\n%s→ %s\n", indent, f.Why, indent, f.Do)
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}
