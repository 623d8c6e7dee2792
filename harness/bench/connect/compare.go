package connect

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"golang.org/x/perf/benchmath"
)

// Compare says what has changed since an older result, in the ratios to the floor of the same
// run: milliseconds of different days, or machines, say little. "~" is a difference that chance
// would make as well, at the level of 5 %.
func (r *Result) Compare(old *Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "old: %s\nnew: %s\n\n", old.Facts(), r.Facts())
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "clients\t\told\tnew\tchange\tp\t\n")
	for _, s := range r.Series {
		for _, before := range old.Series {
			if before.Clients != s.Clients {
				continue
			}
			for _, c := range r.Contenders {
				a, b := before.ratios(c.Name, Floor), s.ratios(c.Name, Floor)
				if c.Name == Floor || len(a) == 0 || len(b) == 0 {
					continue
				}
				test := benchmath.AssumeNothing.Compare(sample(a), sample(b))
				fmt.Fprintf(w, "%d\t%s\t%.2f\t%.2f\t%s\t%.3f\t\n", s.Clients, c.Name, median(a), median(b), test.FormatDelta(median(a), median(b)), test.P)
			}
		}
	}
	w.Flush()
	return b.String()
}
