package cache

import (
	"bytes"
	"fmt"
	"text/tabwriter"

	"ephemeral-builder/image/spec"
)

// Describe is the cache's usage as a table for people.
func Describe(dir string) (string, error) {
	all, err := Measure(dir)
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	var total Usage
	fmt.Fprintln(table, "kind\tentries\tMiB\t")
	for _, usage := range all {
		fmt.Fprintf(table, "%s\t%d\t%d\t\n", usage.Kind, usage.Entries, usage.Bytes>>20)
		total.Entries += usage.Entries
		total.Bytes += usage.Bytes
	}
	fmt.Fprintf(table, "all\t%d\t%d\t\n", total.Entries, total.Bytes>>20)
	if err := table.Flush(); err != nil {
		return "", err
	}
	fmt.Fprintf(&text, "in %s, pruned to %d MiB after each build; at once with: go tool mage cache:prune -max=2G\n", dir, Limit>>20)
	return text.String(), nil
}

// PruneTo is [Prune] with a limit in the form of [spec.Size], such as "2G", or [Limit] if
// it is empty. "0" removes everything.
func PruneTo(dir, limit string) (freed int64, err error) {
	max := spec.Size(Limit)
	switch limit {
	case "":
	case "0":
		max = 0
	default:
		if err := max.UnmarshalText([]byte(limit)); err != nil {
			return 0, fmt.Errorf("-max=%w", err)
		}
	}
	return Prune(dir, int64(max))
}
