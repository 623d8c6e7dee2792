package runner

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Merge puts a section into a config.toml: in place of what the runner of that name has, or else
// at the end. Everything else stays as it is, comments and other runners included, but
// "concurrent", which is raised to what the section needs. With an empty Token or URL those that
// are there stay, and request_concurrency always does. The second result says what has changed, a
// line each; none if nothing has.
func Merge(old []byte, s Section) (merged []byte, changes []string, err error) {
	before, err := Read(old)
	if err != nil {
		return nil, nil, err
	}
	mine := -1
	for i, r := range before.Runners {
		if r.Name != s.Name {
			continue
		}
		if mine >= 0 {
			return nil, nil, fmt.Errorf("two runners are called %q: rename one of them", s.Name)
		}
		if r.Executor != "ssh" {
			return nil, nil, fmt.Errorf("the runner %q has the executor %q: choose another name for this one", s.Name, r.Executor)
		}
		s.Token, s.URL, s.Requests = cmp.Or(s.Token, r.Token), cmp.Or(s.URL, r.URL), cmp.Or(r.Requests, s.Requests)
		mine = i
	}
	switch {
	case s.URL == "":
		return nil, nil, errors.New("there is no such runner yet: name your GitLab, as in -url=https://gitlab.example.com/")
	case s.Token == "":
		return nil, nil, errors.New("there is no such runner yet: give its token, glrt-..., in a file that -token names, or in CI_SERVER_TOKEN")
	}

	doc, err := parse(old)
	if err != nil {
		return nil, nil, err
	}
	var e edits
	if before.Concurrent < s.Limit {
		value := fmt.Sprint(s.Limit)
		change := "concurrent = " + value
		if at, ok := doc.keys["concurrent"]; ok {
			e.replace(at, change)
			change += fmt.Sprintf(", was %d", before.Concurrent)
		} else {
			e.insert(0, change+"\n")
		}
		changes = append(changes, change)
	}
	if mine < 0 {
		changes = append(changes, fmt.Sprintf("added the runner %q", s.Name))
		e.insert(len(old), "\n"+s.String())
	} else {
		for _, table := range []struct {
			path    string
			entries []entry
		}{{"", s.top()}, {"ssh", s.ssh()}} {
			changed, err := doc.set(&e, mine, table.path, table.entries)
			if err != nil {
				return nil, nil, err
			}
			changes = append(changes, changed...)
		}
	}
	merged = e.apply(old)
	return merged, changes, verify(old, merged, mine, s)
}

// Config is what concerns others in a config.toml.
type Config struct {
	Concurrent int      `toml:"concurrent"`
	Runners    []Runner `toml:"runners"`
}

// Runner is one of a [Config].
type Runner struct {
	Name      string `toml:"name"`
	URL       string `toml:"url"`
	Token     string `toml:"token"`
	Executor  string `toml:"executor"`
	Limit     int    `toml:"limit"` // none if zero
	Requests  int    `toml:"request_concurrency"`
	BuildsDir string `toml:"builds_dir"`
	CacheDir  string `toml:"cache_dir"`
	SSH       struct {
		User         string `toml:"user"`
		Host         string `toml:"host"`
		Port         string `toml:"port"`
		IdentityFile string `toml:"identity_file"`
		KnownHosts   string `toml:"known_hosts_file"`
		AnyHostKey   bool   `toml:"disable_strict_host_key_checking"`
	} `toml:"ssh"`
}

// Uses says whether the runner gives its jobs to the builder that listens at an address.
func (r Runner) Uses(listen netip.AddrPort) bool {
	return r.Executor == "ssh" && strings.Trim(r.SSH.Host, "[]") == listen.Addr().String() && r.SSH.Port == fmt.Sprint(listen.Port())
}

// Read decodes a config.toml. The error has the line.
func Read(text []byte) (c Config, err error) {
	var all map[string]any // with what a Config does not have
	if err = toml.Unmarshal(text, &all); err == nil {
		err = toml.Unmarshal(text, &c)
	}
	var at *toml.DecodeError
	if errors.As(err, &at) {
		line, _ := at.Position()
		return c, fmt.Errorf("line %d: %w", line, err)
	}
	return c, err
}

// document is where things are in a config.toml, in bytes.
type document struct {
	keys   map[string]span   // by their path: runners[0].ssh.host
	values map[string]string // likewise, of those that are no tables
	tables map[string]int    // by path: where its last line ends that is not blank or a comment
	inline map[string]bool   // paths of inline tables and arrays
}

// ours are the names of all keys that a merge can write.
var ours = func() map[string]bool {
	names := map[string]bool{"concurrent": true, "runners": true, "ssh": true}
	for _, e := range append(Section{}.top(), Section{}.ssh()...) {
		names[e.key] = true
	}
	return names
}()

// span is a part of the text, half open.
type span struct{ from, to int }

func parse(text []byte) (document, error) {
	d := document{keys: map[string]span{}, values: map[string]string{}, tables: map[string]int{}, inline: map[string]bool{}}
	var p unstable.Parser
	p.Reset(text)
	path, runners := "", -1
	for p.NextExpression() {
		e := p.Expression()
		var names []string
		end := 0
		for part := e.Key(); part.Next(); {
			name := string(part.Node().Data)
			// Decoders take them for the same key, so there would be two.
			if lower := strings.ToLower(name); lower != name && ours[lower] {
				return d, fmt.Errorf("its key %s: write it as %s", name, lower)
			}
			names = append(names, name)
			end = int(part.Node().Raw.Offset + part.Node().Raw.Length)
		}
		switch name := strings.Join(names, "."); e.Kind {
		case unstable.ArrayTable, unstable.Table:
			if e.Kind == unstable.ArrayTable && name == "runners" {
				runners++
			}
			if names[0] == "runners" && runners < 0 {
				return d, errors.New("its runners are a table: write each as [[runners]]")
			}
			path = name
			if names[0] == "runners" {
				path = strings.TrimSuffix(fmt.Sprintf("runners[%d].%s", runners, strings.Join(names[1:], ".")), ".")
			}
			d.tables[path] = lineEnd(text, end)
		case unstable.KeyValue:
			key := strings.TrimPrefix(path+"."+name, ".")
			at := span{int(e.Raw.Offset), int(e.Raw.Offset + e.Raw.Length)}
			d.keys[key] = at
			if k := e.Value().Kind; k == unstable.InlineTable || k == unstable.Array {
				d.inline[key] = true
			}
			d.values[key] = string(bytes.TrimSpace(text[at.from:at.to]))
			d.tables[path] = lineEnd(text, at.to)
		}
	}
	for key := range d.keys {
		if runners < 0 && (key == "runners" || strings.HasPrefix(key, "runners.")) {
			return d, errors.New("its runners are not tables: write each as [[runners]]")
		}
	}
	return d, p.Error()
}

// lineEnd is where the line with a position ends, after its newline.
func lineEnd(text []byte, at int) int {
	if i := bytes.IndexByte(text[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(text)
}

// set gives keys of a runner their values, in the table where it has them already.
func (d document) set(e *edits, runner int, table string, entries []entry) (changes []string, err error) {
	base := fmt.Sprintf("runners[%d]", runner)
	at, prefix, indent := d.tables[base], "", "  "
	if table != "" {
		path := base + "." + table
		if d.inline[path] {
			return nil, fmt.Errorf("its %s is an inline table: write it as a table [runners.%s]", table, table)
		}
		end, ok := d.tables[path]
		switch {
		case ok:
			at, indent = end, "    "
		case d.dotted(path):
			prefix = table + "."
		default:
			e.insert(d.end(base), fmt.Sprintf("  [runners.%s]\n", table))
			at, indent = d.end(base), "    "
		}
		base = path
	}
	for _, want := range entries {
		text := prefix + want.key + " = " + want.value
		where, ok := d.keys[base+"."+want.key]
		switch {
		case !ok:
			e.insert(at, indent+text+"\n")
		case equal(d.values[base+"."+want.key], want):
			continue
		default:
			e.replace(where, text)
		}
		if want.key == "token" {
			changes = append(changes, "token, which stays a secret")
		} else {
			changes = append(changes, text)
		}
	}
	return changes, nil
}

// equal says whether an entry as it is written has the wanted value, however that is written.
func equal(written string, want entry) bool {
	var is, should map[string]any
	return toml.Unmarshal([]byte(written), &is) == nil && toml.Unmarshal([]byte(want.key+" = "+want.value), &should) == nil &&
		reflect.DeepEqual(leaf(is), leaf(should))
}

// leaf is the one value of tables in tables.
func leaf(tree map[string]any) any {
	for _, value := range tree {
		if inner, ok := value.(map[string]any); ok {
			return leaf(inner)
		}
		return value
	}
	return nil
}

// dotted says whether a table is written by keys like "ssh.host".
func (d document) dotted(path string) bool {
	if _, ok := d.tables[path]; ok {
		return false
	}
	for key := range d.keys {
		if strings.HasPrefix(key, path+".") {
			return true
		}
	}
	return false
}

// end is where a runner and all of its tables end.
func (d document) end(base string) int {
	end := 0
	for path, at := range d.tables {
		if path == base || strings.HasPrefix(path, base+".") {
			end = max(end, at)
		}
	}
	return end
}

// edits are changes of a text, by positions in the old one.
type edits []edit

type edit struct {
	span
	text string
}

func (e *edits) replace(at span, text string) { *e = append(*e, edit{at, text}) }
func (e *edits) insert(at int, text string)   { *e = append(*e, edit{span{at, at}, text}) }

// apply keeps the order of insertions in one place.
func (e edits) apply(old []byte) []byte {
	slices.SortStableFunc(e, func(a, b edit) int { return a.from - b.from })
	var text []byte
	done := 0
	for _, one := range e {
		text = append(text, old[done:one.from]...)
		// After the last line of a file that does not end it.
		if one.from == one.to && one.from > 0 && len(text) > 0 && text[len(text)-1] != '\n' {
			text = append(text, '\n')
		}
		text = append(text, one.text...)
		done = one.to
	}
	return append(text, old[done:]...)
}

// verify fails unless the merged text is the old one but for the section and "concurrent". What
// the file says is the work of other people: no fault of ours may spoil it.
func verify(old, merged []byte, mine int, s Section) error {
	var was, is, want map[string]any
	if err := errors.Join(toml.Unmarshal(old, &was), toml.Unmarshal(merged, &is), toml.Unmarshal([]byte(s.String()), &want)); err != nil {
		return fmt.Errorf("merging the section failed, which is a fault of ephemeral-builder: %w", err)
	}
	if mine < 0 {
		mine = len(list(was))
		was["runners"] = append(list(was), map[string]any{})
	}
	wanted, merging := list(want)[0].(map[string]any), list(was)[mine].(map[string]any)
	ssh, _ := merging["ssh"].(map[string]any)
	if ssh == nil {
		ssh = map[string]any{}
	}
	for key, value := range wanted["ssh"].(map[string]any) {
		ssh[key] = value
	}
	for key, value := range wanted {
		merging[key] = value
	}
	merging["ssh"] = ssh
	if now, _ := was["concurrent"].(int64); now < int64(s.Limit) {
		was["concurrent"] = int64(s.Limit)
	}
	if !reflect.DeepEqual(was, is) {
		return errors.New("merging the section would change more than it, which is a fault of ephemeral-builder: add it by hand")
	}
	return nil
}

func list(tree map[string]any) []any {
	runners, _ := tree["runners"].([]any)
	return runners
}
