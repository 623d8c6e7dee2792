package study

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// String is the rule for people.
func (r Rule) String() string {
	return fmt.Sprintf("slots = load + %.0f + %.1f·√load", r.Room, r.K)
}

// Verdict says what the fleet is for, and how it fares, in a sentence each.
func (r *Result) Verdict() string {
	return fmt.Sprintf("%d jobs a day are %s at once in the busy hour if none waits: for 95 %% of those to wait at most %.0f s it takes about %d slots. "+
		"The rule of thumb says %d; %d hosts with %d slots each have %d.",
		r.Jobs, count(r.Busiest), aimWait, r.Needed, r.Rule.Slots(r.Busiest), r.Hosts, r.Each, r.Hosts*r.Each)
}

// duration is some seconds for people.
func duration(seconds float64) string {
	switch {
	case seconds == 0:
		return "0 s"
	case seconds < 10:
		return fmt.Sprintf("%.1f s", seconds)
	case seconds < 120:
		return fmt.Sprintf("%.0f s", seconds)
	}
	return fmt.Sprintf("%.0f min", seconds/60)
}

// count is a mean number for people.
func count(n float64) string {
	if n < 10 {
		return fmt.Sprintf("%.1f", n)
	}
	return fmt.Sprintf("%.0f", n)
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

// Text is a table for a terminal.
func (r *Result) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", r.Verdict())
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "slots\tload/slots\tbusy all day\twait p50\tp95\tp99\tover 10 s\tover 60 s\t\n")
	for _, p := range r.BySlots {
		if p.Share < fullLoad {
			fmt.Fprintf(w, "%d\t%.2f\t%s\t%s\t%s\t%s\t%s\t%s\t\n", p.Slots, p.Share, percent(p.DayUtilisation), duration(p.P50), duration(p.P95), duration(p.P99), percent(p.Over10), percent(p.Over60))
		}
	}
	w.Flush()
	fmt.Fprintf(&b, "\nwith %d slots, who gives jobs to hosts\n", r.Hosts*r.Each)
	w = tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "wait p50\tp95\tp99\tover 10 s\tover 60 s\t\t\n")
	for _, p := range r.Policies {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t  %s\n", duration(p.P50), duration(p.P95), duration(p.P99), percent(p.Over10), percent(p.Over60), p.Policy)
	}
	w.Flush()
	fmt.Fprintf(&b, "\n%s\nload: how many jobs would run at once in the busy hour; from %.0f to %.0f of them the rule is within %.0f %% of what was simulated\n",
		r.Rule, r.Rule.From, r.Rule.To, 100*r.Rule.Worst)
	fmt.Fprintf(&b, "if each job came alone: slots = load + %.1f·√load; a pipeline here has %g\n", r.Rule.Single, r.Pipeline)
	return b.String()
}
