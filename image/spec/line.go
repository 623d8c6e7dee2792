package spec

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/pelletier/go-toml/v2/unstable"
)

// keyLines finds where each key of a TOML document is first written: tables, values
// and, as packages[3], the items of lists. Decoding forgets it, but a problem with a
// value that is correct TOML needs it. The document must be one that decodes.
func keyLines(data []byte) map[string]int {
	lines := map[string]int{}
	var parser unstable.Parser
	parser.Reset(data)
	markKey := func(path string, parts unstable.Iterator) string {
		for parts.Next() {
			path = dotted(path, string(parts.Node().Data))
			if lines[path] == 0 {
				lines[path] = parser.Shape(parts.Node().Raw).Start.Line
			}
		}
		return path
	}
	var keyValue func(path string, n *unstable.Node)
	keyValue = func(path string, n *unstable.Node) {
		key := markKey(path, n.Key())
		items := n.Value().Children()
		for i := 0; items.Next(); i++ {
			switch n.Value().Kind {
			case unstable.InlineTable:
				keyValue(key, items.Node())
			case unstable.Array:
				item := fmt.Sprintf("%s[%d]", key, i)
				lines[item] = lines[key]
				if raw := items.Node().Raw; raw.Length > 0 { // not kept for a list in the list
					lines[item] = parser.Shape(raw).Start.Line
				}
			}
		}
	}

	table := ""
	for parser.NextExpression() {
		switch e := parser.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = markKey("", e.Key())
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
