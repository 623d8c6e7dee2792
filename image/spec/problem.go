package spec

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// problem is one thing that is wrong with a spec, and what to do about it.
type problem struct {
	key  string // as in a file's positions: limits.memory_max, packages[3]
	text string

	file         string
	line, column int // from 1; 0 if unknown, the column also if the line tells enough
}

func (p problem) Error() string {
	switch {
	case p.line == 0:
		return p.text
	case p.column == 0:
		return fmt.Sprintf("%s:%d: %s", p.file, p.line, p.text)
	default:
		return fmt.Sprintf("%s:%d:%d: %s", p.file, p.line, p.column, p.text)
	}
}

// join is all problems as one error, in the order of their lines, or nil.
func join(problems []problem) error {
	slices.SortStableFunc(problems, func(a, b problem) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.text, b.text))
	})
	var errs []error
	for _, p := range problems {
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}
