package apt

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// list is an index of packages that apt has verified.
type list struct {
	source int    // index of its source
	uri    string // what file names in it are relative to, not escaped, with a slash at its end
	path   string
	text   []byte
}

// lists reads the indexes of all sources, in their order. apt has none for a component
// that is empty.
func (p *private) lists(ctx context.Context) ([]list, error) {
	out, err := p.get(ctx, func(_, stderr string) error { return firstError(stderr) },
		"indextargets", "--format", "$(SOURCESENTRY)\t$(REPO_URI)\t$(FILENAME)", "Created-By: Packages")
	if err != nil {
		return nil, err
	}
	var lists []list
	for line := range strings.Lines(out) {
		field := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(field) != 3 {
			return nil, fmt.Errorf("apt-get indextargets printed %q", line)
		}
		// FILE:NUMBER of the stanza, from 1 on
		n, err := strconv.Atoi(field[0][strings.LastIndexByte(field[0], ':')+1:])
		if err != nil || n < 1 || n > len(p.Sources) {
			return nil, fmt.Errorf("apt-get indextargets printed %q", line)
		}
		l := list{source: n - 1, path: field[2]}
		if l.uri, err = url.PathUnescape(field[1]); err != nil {
			return nil, err
		}
		if l.text, err = os.ReadFile(l.path); err != nil {
			return nil, err
		}
		lists = append(lists, l)
	}
	return lists, nil
}

// stanza is one paragraph of an index, without the empty line after it.
type stanza []byte

func (l list) stanzas() iter.Seq[stanza] {
	return func(yield func(stanza) bool) {
		for rest := l.text; ; {
			rest = bytes.TrimLeft(rest, "\n")
			if len(rest) == 0 {
				return
			}
			end := bytes.Index(rest, []byte("\n\n"))
			if end < 0 {
				end = len(rest)
			}
			if !yield(stanza(bytes.TrimRight(rest[:end], "\n"))) {
				return
			}
			rest = rest[end:]
		}
	}
}

// field returns the value of a field that has one line, or "".
func (s stanza) field(name string) string {
	for rest := []byte(s); len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		if len(line) > len(name) && line[len(name)] == ':' && string(line[:len(name)]) == name {
			return string(bytes.TrimSpace(line[len(name)+1:]))
		}
		rest = after
	}
	return ""
}
