package lint

import (
	"strconv"
	"strings"
)

// accounts are the ids that the image knows.
type accounts struct{ users, groups map[int]bool }

func (l *Linter) accounts() accounts {
	ids := func(name string) map[int]bool {
		known := map[int]bool{}
		for _, field := range l.lines(name) {
			if len(field) < 3 {
				continue
			}
			if id, err := strconv.Atoi(field[2]); err == nil {
				known[id] = true
			}
		}
		return known
	}
	return accounts{users: ids("/etc/passwd"), groups: ids("/etc/group")}
}

// lines splits a file such as /etc/passwd, passwd(5).
func (l *Linter) lines(name string) [][]string {
	text, ok := l.content[name]
	if !ok {
		return nil
	}
	var all [][]string
	for line := range strings.Lines(text.String()) {
		all = append(all, strings.Split(strings.TrimSuffix(line, "\n"), ":"))
	}
	return all
}

// line returns the builder's line in such a file, nil if it has none with so many fields.
func (l *Linter) line(name string, fields int) []string {
	for _, field := range l.lines(name) {
		if field[0] == "builder" && len(field) >= fields {
			return field
		}
	}
	return nil
}
