package lock

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Entry is what is compared of a package, be it from a lock or from a manifest.
type Entry struct{ Name, Version, Architecture string }

// Change is a package whose version differs between two lists.
type Change struct {
	Package string
	Old     string // version; empty if the package is new
	New     string // version; empty if the package is gone
}

// Diff tells what leads from one list of packages to another, sorted by name. A package
// that is there for several architectures counts as one; versions that differ among
// them are joined with a comma.
func Diff(old, new []Entry) []Change {
	before, after := versions(old), versions(new)
	names := map[string]bool{}
	for _, list := range [][]Entry{old, new} {
		for _, e := range list {
			names[e.Name] = true
		}
	}
	var changes []Change
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if before[name] != after[name] {
			changes = append(changes, Change{name, before[name], after[name]})
		}
	}
	return changes
}

func versions(list []Entry) map[string]string {
	all := map[string][]string{}
	for _, e := range list {
		all[e.Name] = append(all[e.Name], e.Version)
	}
	joined := make(map[string]string, len(all))
	for name, list := range all {
		slices.Sort(list)
		joined[name] = strings.Join(slices.Compact(list), ", ")
	}
	return joined
}

// Table renders changes in aligned columns for a terminal, a line each and a heading; it
// is empty without changes.
func Table(changes []Change) string {
	if len(changes) == 0 {
		return ""
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "package\told\tnew")
	for _, c := range changes {
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.Package, cmp.Or(c.Old, "-"), cmp.Or(c.New, "-"))
	}
	w.Flush()
	return b.String()
}

// Markdown renders changes as a table in GitLab's and GitHub's Markdown; it is empty
// without changes.
func Markdown(changes []Change) string {
	if len(changes) == 0 {
		return ""
	}
	// As code, because GitLab takes ~rc1 for a label.
	code := func(version string) string {
		if version == "" {
			return "-"
		}
		return "`" + version + "`"
	}
	var b strings.Builder
	b.WriteString("| package | old | new |\n| --- | --- | --- |\n")
	for _, c := range changes {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", code(c.Package), code(c.Old), code(c.New))
	}
	return b.String()
}
