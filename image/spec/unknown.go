package spec

import (
	"fmt"
	"strings"

	"github.com/agnivade/levenshtein"
)

// unknown says that there is no such key, and what was probably meant.
func (r *reader) unknown(path, key string, isTable bool) string {
	if isTable {
		text := fmt.Sprintf("unknown table %q: ", key)
		tables := append([]string{"sources"}, tables...)
		if near := nearest(key, tables); near != "" {
			return text + fmt.Sprintf("did you mean %q?", near)
		}
		return text + "use " + strings.Join(tables, ", ")
	}

	var keys, here []string
	for _, s := range r.settings {
		keys = append(keys, s.key)
		if table, _ := split(s.key); table == path {
			here = append(here, s.key)
		}
	}
	for _, s := range sourceSettings("[[sources]]", new(Source)) {
		keys = append(keys, s.key)
	}
	text := fmt.Sprintf("unknown key %q: ", key)
	near := nearest(key, keys)
	switch {
	case near == "":
		return text + "use " + strings.Join(here, ", ")
	case path != "" && !strings.Contains(near, "."):
		// TOML has no way back to the top level once a table has begun.
		return text + fmt.Sprintf("did you mean %q? it goes above the first [table]", near)
	default:
		return text + fmt.Sprintf("did you mean %q?", near)
	}
}

// nearest is the candidate that key is most likely a misspelling of, or "". Its last
// part counts by itself too: top-level "uid" is near to "user.uid". So does systemd's
// spelling: "limits.MemoryMax".
func nearest(key string, candidates []string) string {
	key = strings.ToLower(key)
	_, last := split(key)
	best, distance := "", max(1, len(last)/3)+1
	for _, c := range candidates {
		_, lastOf := split(c)
		d := min(levenshtein.ComputeDistance(key, c), levenshtein.ComputeDistance(last, lastOf))
		if d < distance {
			best, distance = c, d
		}
	}
	return best
}

// split takes "limits.memory_max" apart at its last dot; a top-level key has no table.
func split(key string) (table, name string) {
	dot := strings.LastIndexByte(key, '.')
	return key[:max(dot, 0)], key[dot+1:]
}
