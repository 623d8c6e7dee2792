package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"ephemeral-builder/image/command"
	"ephemeral-builder/units"
)

// Row is what is known of one host.
type Row struct {
	Host    string `json:"host"`
	State   string `json:"state"`   // ready, drained, down, or unknown
	Version string `json:"version"` // that new connections get
	Jobs    int    `json:"jobs"`
	Older   int    `json:"older"` // jobs of these with another version
	Free    int    `json:"free"`
	Slots   int    `json:"slots"`    // by the fleet's file
	Seen    string `json:"balancer"` // what the balancer thinks of it, with its connections there
	Note    string `json:"note,omitempty"`
}

// Status is what is known of a fleet.
type Status struct {
	Rows     []Row  `json:"hosts"`
	Queued   string `json:"queued"`             // connections that wait at the balancer for a slot
	Balancer string `json:"balancer,omitempty"` // why it is not asked
}

// Status asks all hosts, and the balancer. One that does not answer is a row like the others.
func (f Fleet) Status(ctx context.Context) Status {
	views, queued, err := f.look(ctx)
	out := Status{Queued: queued}
	if err != nil {
		out.Balancer = err.Error()
	}
	for i, got := range f.ask(ctx) {
		out.Rows = append(out.Rows, f.row(f.Hosts[i], got, views))
	}
	return out
}

func (f Fleet) row(h Host, got facts, views map[string]view) Row {
	row := Row{Host: h.Name, State: "unknown", Slots: h.Slots}
	if v, ok := views[h.Name]; ok {
		row.Seen = fmt.Sprintf("%s, %s", v.state, v.sessions)
	}
	if got.err != nil {
		row.Note = strings.TrimPrefix(got.err.Error(), h.Name+": ")
		return row
	}
	row.Version, row.Jobs, row.Free = got.Version, len(got.Containers), got.Free+got.Waiting
	for _, c := range got.Containers {
		if c.Version != got.Version {
			row.Older++
		}
	}
	switch row.State = "ready"; {
	case !got.Active:
		row.State = "down"
	case got.Drained:
		row.State = "drained"
	}
	switch err := f.differs(h, got); {
	case err != nil:
		row.Note = strings.TrimPrefix(err.Error(), h.Name+" ")
	case got.Updates == "failed":
		row.Note = fmt.Sprintf("its last update failed: journalctl -u %s-update", f.Name)
	case got.Trial:
		row.Note = "tries a new version"
	default:
		row.Note = f.note(got)
	}
	return row
}

// note is about what will bite later.
func (f Fleet) note(got facts) string {
	if version, err := got.refused(); err != nil {
		return err.Error()
	} else if version != "" {
		return fmt.Sprintf("version %s does not serve there: publish a later one", version)
	}
	if got.certificate != nil {
		if fault, _ := units.JudgeCertificate(got.certificate, got.hostKey, time.Now()); fault != "" {
			return fmt.Sprintf("its certificate %s: %s", fault, command.Self("fleet:certify"))
		}
	}
	return ""
}

// Print writes a table, or JSON.
func (s Status) Print(w io.Writer, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(s)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "HOST\tSTATE\tVERSION\tJOBS\tFREE\tSLOTS\tBALANCER\tNOTE")
	jobs, slots := 0, 0
	for _, r := range s.Rows {
		note := r.Note
		if r.Older > 0 && note == "" {
			note = fmt.Sprintf("%d jobs have another version", r.Older)
		}
		known := func(n int) string {
			if r.State == "unknown" {
				return "-"
			}
			return fmt.Sprint(n)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", r.Host, r.State, cmp.Or(r.Version, "-"), known(r.Jobs), known(r.Free), r.Slots, cmp.Or(r.Seen, "-"), strings.ReplaceAll(note, "\n", ", "))
		jobs, slots = jobs+r.Jobs, slots+r.Slots
	}
	if err := table.Flush(); err != nil {
		return err
	}
	last := fmt.Sprintf("%d jobs in %d slots, %s wait", jobs, slots, cmp.Or(s.Queued, "-"))
	if s.Balancer != "" {
		last = s.Balancer
	}
	_, err := fmt.Fprintln(w, last)
	return err
}
