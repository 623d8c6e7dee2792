package spec

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/pelletier/go-toml/v2/unstable"
)

// keyLines finds where each key of a TOML document is first written: tables, values
// and, as packages[3] or sources[0].uri, what is in lists and in arrays of tables.
// Decoding forgets it, but a problem with a value that is correct TOML needs it. The
// document must be one that decodes.
func keyLines(data []byte) map[string]int {
	lines := map[string]int{}
	var parser unstable.Parser
	parser.Reset(data)
	mark := func(key string, line int) {
		if lines[key] == 0 {
			lines[key] = line
		}
	}
	lineOf := func(n *unstable.Node) int { return parser.Shape(n.Raw).Start.Line }

	var keyValue func(path string, n *unstable.Node)
	var inside func(path string, value *unstable.Node)
	keyValue = func(path string, n *unstable.Node) {
		for parts := n.Key(); parts.Next(); {
			path = dotted(path, string(parts.Node().Data))
			mark(path, lineOf(parts.Node()))
		}
		inside(path, n.Value())
	}
	inside = func(path string, value *unstable.Node) {
		items := value.Children()
		for i := 0; items.Next(); i++ {
			switch item := items.Node(); value.Kind {
			case unstable.InlineTable:
				keyValue(path, item)
			case unstable.Array:
				key, line := fmt.Sprintf("%s[%d]", path, i), lines[path]
				if item.Raw.Length > 0 { // not kept for a list in the list
					line = lineOf(item)
				}
				mark(key, line)
				inside(key, item)
			}
		}
	}

	table, tables := "", map[string]int{} // how many there are so far in each array of tables
	for parser.NextExpression() {
		switch e := parser.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = ""
			for parts := e.Key(); parts.Next(); {
				table = dotted(table, string(parts.Node().Data))
				mark(table, lineOf(parts.Node()))
				if e.Kind == unstable.ArrayTable && parts.IsLast() {
					tables[table]++
				}
				if n := tables[table]; n > 0 {
					table = fmt.Sprintf("%s[%d]", table, n-1)
					mark(table, lineOf(parts.Node()))
				}
			}
		case unstable.KeyValue:
			keyValue(table, e)
		}
	}
	return lines
}

var bareKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// dotted is the key called name in the table at path, quoted where TOML needs it, so
// that the top-level key "user.uid", in quotes, is not the uid of [user].
func dotted(path, name string) string {
	if !bareKey.MatchString(name) {
		name = strconv.Quote(name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}
