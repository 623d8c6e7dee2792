package compare

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"
)

// Table shows the first most differences, and how many there are of each sort, for people.
// Those of mtimes come last: one wrong clock makes thousands of them, which would hide the
// rest. It is empty if there is none.
func Table(list []Difference, most int) string {
	if len(list) == 0 {
		return ""
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b Difference) int {
		switch late := func(d Difference) bool { return d.What == "mtime" }; {
		case late(a) == late(b):
			return 0
		case late(a):
			return 1
		}
		return -1
	})
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "path\twhat\tfirst\tsecond")
	for _, d := range list[:min(len(list), most)] {
		name := shown(d.Path)
		if d.Path == "" {
			name = "(archive)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", name, d.What, orNone(d.First), orNone(d.Second))
	}
	_ = w.Flush() // a Builder does not fail
	if len(list) > most {
		fmt.Fprintf(&text, "the first %d of %d differences: %s\n", most, len(list), counts(list))
	}
	return text.String()
}

// counts is how many differences there are of each sort, the most frequent first.
func counts(list []Difference) string {
	count := map[string]int{}
	for _, d := range list {
		count[d.What]++
	}
	kinds := slices.SortedFunc(maps.Keys(count), func(a, b string) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a, b))
	})
	var all []string
	for _, kind := range kinds {
		all = append(all, fmt.Sprintf("%d %s", count[kind], kind))
	}
	return strings.Join(all, ", ")
}

func orNone(value string) string {
	if value == "" {
		return "none"
	}
	return shown(value)
}

// shown quotes a name that could garble a line.
func shown(name string) string {
	garbles := func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }
	if strings.ContainsFunc(name, garbles) {
		return fmt.Sprintf("%q", name)
	}
	return name
}
