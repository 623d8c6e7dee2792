package spec

import (
	"encoding"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// File is the name under which [Load] looks for a spec when none is named.
const File = "ephemeral-builder.toml"

// Load reads the spec in the file at path, and checks all that it refers to as
// [Spec.Inputs] does. The empty path stands for [File] in the current directory, or for
// [Default] if there is no such file. The error is as [Parse] has it.
func Load(path string) (Spec, error) {
	name := path
	if name == "" {
		name = File
	}
	data, err := os.ReadFile(name)
	switch {
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return Spec{}, err
	case path == "":
		return Default(), nil
	default:
		return Spec{}, fmt.Errorf("%w: name a spec that exists, or none for %s or the defaults", err, File)
	}

	s, problems, err := parse(name, data)
	if err != nil {
		return Spec{}, err
	}
	_, unusable := s.inputs()
	unusable = slices.DeleteFunc(unusable, func(p problem) bool { // a path of the wrong form
		return slices.ContainsFunc(problems, func(known problem) bool { return known.key == p.key })
	})
	problems = append(problems, unusable...)
	if err := join(s.origin.place(problems)); err != nil {
		return Spec{}, err
	}
	return s, nil
}

// Parse reads data over [Default] and validates the result. The error joins one error
// for each problem, in the order of their lines and each with file and line:
//
//	ephemeral-builder.toml:3: unknown key "concurency": did you mean "concurrency"?
//
// Only a syntax error comes alone, as nothing after it can be trusted. The file's name
// is for these messages, and its folder for paths in the spec; Parse opens nothing.
func Parse(file string, data []byte) (Spec, error) {
	s, problems, err := parse(file, data)
	if err == nil {
		err = join(s.origin.place(problems))
	}
	if err != nil {
		return Spec{}, err
	}
	return s, nil
}

func parse(file string, data []byte) (Spec, []problem, error) {
	var tree map[string]any
	if err := toml.Unmarshal(data, &tree); err != nil {
		return Spec{}, nil, syntaxProblem(file, data, err)
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return Spec{}, nil, err
	}

	s := Default()
	s.origin = &origin{file, dir, keyLines(data)}
	r := reader{settings: settings(&s)}
	r.table("", tree)
	if s.Root == RootSudo && !slices.Contains(s.Packages, sudo) {
		s.Packages = append(s.Packages, sudo)
	}
	// A value that could not be read has left the valid default in place: all that is
	// found here was written in the file, and no key is reported for both reasons.
	return s, append(r.problems, s.problems()...), nil
}

// bareText is a key with text for a value that lacks its quotes: suite = trixie,
// memory_max = 256M, listen = 127.0.0.1:24, resolver = 10.0.0.53.
var bareText = regexp.MustCompile(`^\s*[\w.-]+\s*=\s*([^\s"'\[{#][^"'#]*[A-Za-z%:]|\d+\.\d+\.)`)

func syntaxProblem(file string, data []byte, err error) error {
	var decode *toml.DecodeError
	if !errors.As(err, &decode) {
		return fmt.Errorf("%s: %w", file, err)
	}
	p := problem{file: file}
	p.line, p.column = decode.Position()
	cause := strings.TrimPrefix(decode.Error(), "toml: ")
	lines := strings.Split(string(data), "\n")
	switch {
	case len(decode.Key()) > 0: // the only errors with a key: something is defined twice
		p.text = cause + ": keep one of the two"
	// The parser takes bare text for a number, a date or a boolean, and says so:
	// suite = trixie is `expected keyword "true"` to it.
	case strings.HasSuffix(cause, "at start of value"), strings.HasPrefix(cause, "expected keyword"),
		p.line <= len(lines) && bareText.MatchString(lines[p.line-1]):
		p.text = `text without quotes: put "..." around it`
	default:
		p.text = cause + ": see toml.io for the syntax"
	}
	return p
}

// setting is a key of the file, and where its value goes.
type setting struct {
	key string
	dst any
}

func settings(s *Spec) []setting {
	return []setting{
		{"name", &s.Name},
		{"suite", &s.Suite},
		{"mirror", &s.Mirror},
		{"arch", &s.Arch},
		{"packages", &s.Packages},
		{"sources", &s.Sources},
		{"files", &s.Files},
		{"hooks", &s.Hooks},
		{"setuid", &s.Setuid},
		{"concurrency", &s.Concurrency},
		{"start", (*string)(&s.Start)},
		{"network", (*string)(&s.Network)},
		{"allow", &s.Allow},
		{"resolver", &s.Resolver},
		{"root", (*string)(&s.Root)},
		{"home", (*string)(&s.Home)},
		{"cache", &s.Cache},
		{"git_mirror", &s.GitMirror},
		{"canaries", &s.Canaries},
		{"user.uid", &s.User.UID},
		{"user.gid", &s.User.GID},
		{"ssh.listen", &s.SSH.Listen},
		{"ssh.from", &s.SSH.From},
		{"ssh.rate", &s.SSH.Rate},
		{"ssh.agent", &s.SSH.Agent},
		{"limits.cpu_quota", &s.Limits.CPUQuota},
		{"limits.memory_high", &s.Limits.MemoryHigh},
		{"limits.memory_max", &s.Limits.MemoryMax},
		{"limits.tasks_max", &s.Limits.TasksMax},
		{"limits.home_size", &s.Limits.HomeSize},
		{"limits.tmp_size", &s.Limits.TmpSize},
		{"limits.start_timeout", &s.Limits.StartTimeout},
		{"limits.lifetime", &s.Limits.Lifetime},
	}
}

var tables = []string{"user", "ssh", "limits"}

// reader puts a file's values into settings and collects all that is wrong with them.
// Decoding into the struct would end at the first.
type reader struct {
	settings []setting
	problems []problem
}

func (r *reader) report(key, format string, args ...any) {
	r.problems = append(r.problems, problem{key: key, text: fmt.Sprintf(format, args...)})
}

func (r *reader) table(path string, tree map[string]any) {
	for name, value := range tree {
		key := dotted(path, name)
		known := slices.IndexFunc(r.settings, func(s setting) bool { return s.key == key })
		sub, isTable := value.(map[string]any)
		switch {
		case known >= 0:
			r.assign(key, r.settings[known].dst, value)
		case !slices.Contains(tables, key):
			r.report(key, "%s", r.unknown(path, key, isTable))
		case isTable:
			r.table(key, sub)
		default:
			r.report(key, "%s is %s: use a table, [%s]", key, kind(value), key)
		}
	}
}

// assign puts value where dst points, or reports why it can't and leaves dst alone.
func (r *reader) assign(key string, dst, value any) {
	mismatch := func(want string) { r.report(key, "%s is %s: use %s", key, kind(value), want) }
	text, isText := value.(string)
	switch dst := dst.(type) {
	case *string:
		if !isText {
			mismatch("text in quotes")
			return
		}
		*dst = text
	case *int:
		n, ok := value.(int64)
		if !ok {
			mismatch("a whole number without quotes")
			return
		}
		if n != int64(int32(n)) { // an int has 32 bits on some of Debian's machines
			r.report(key, "%s is %d: use a number that fits 32 bits", key, n)
			return
		}
		*dst = int(n)
	case *[]string:
		if texts, ok := r.list(key, value, `["git", "curl"]`); ok {
			*dst = texts
		}
	case *[]netip.Addr:
		texts, _ := r.list(key, value, `["10.0.0.11"]`)
		*dst = parsed(r, key, texts, netip.ParseAddr)
	case *[]netip.Prefix:
		texts, _ := r.list(key, value, `["10.0.0.5", "10.1.0.0/16"]`)
		*dst = parsed(r, key, texts, parsePrefix)
	case *[]Source:
		r.assignSources(key, dst, value)
	case *netip.AddrPort:
		if !isText {
			mismatch(`text in quotes, such as "127.0.0.1:24"`)
			return
		}
		listen, err := netip.ParseAddrPort(text)
		if err != nil {
			r.report(key, "%s %q: %s", key, text, listenForm)
			return
		}
		*dst = listen
	case *netip.Addr:
		if !isText {
			mismatch(`text in quotes, such as "10.0.0.53"`)
			return
		}
		var addr netip.Addr
		if addr.UnmarshalText([]byte(text)) != nil { // "" is the zero Addr to it
			r.report(key, `%s %q: not an IP address: use one without a port, such as "10.0.0.53"`, key, text)
			return
		}
		*dst = addr
	case encoding.TextUnmarshaler: // Size, Percent, Duration
		if !isText {
			mismatch("text in quotes, such as " + example(dst))
			return
		}
		if err := dst.UnmarshalText([]byte(text)); err != nil {
			r.report(key, "%s %v", key, err)
		}
	default:
		panic(fmt.Sprintf("spec: %s has a type that no code reads: %T", key, dst))
	}
}

// list is a list of texts, which is nil if empty, as it is after a way through JSON.
func (r *reader) list(key string, value any, example string) (texts []string, ok bool) {
	list, ok := value.([]any)
	if !ok {
		r.report(key, `%s is %s: use a list, such as %s`, key, kind(value), example)
		return nil, false
	}
	for i, item := range list {
		text, ok := item.(string)
		if !ok {
			r.report(fmt.Sprintf("%s[%d]", key, i), "%s has %s in it: use text in quotes", key, kind(item))
			continue
		}
		texts = append(texts, text)
	}
	return texts, len(texts) == len(list)
}

// parsed are the values of texts: zero where there is a problem, for which no other is to be found.
func parsed[T any](r *reader, key string, texts []string, parse func(string) (T, error)) (values []T) {
	for i, text := range texts {
		value, err := parse(text)
		if err != nil {
			r.report(fmt.Sprintf("%s[%d]", key, i), "%s: %q is no IP address: use one without a port, such as %q", key, text, "10.0.0.5")
		}
		values = append(values, value)
	}
	return values
}

// parsePrefix takes a single address, too.
func parsePrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr.Prefix(addr.BitLen())
	}
	return netip.ParsePrefix(text)
}

func example(dst any) string {
	switch dst.(type) {
	case *Size:
		return `"256M"`
	case *Percent:
		return `"25%"`
	default:
		return `"90s"`
	}
}

// kind names what the file holds in TOML's words.
func kind(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	case []any:
		return "an array"
	case map[string]any:
		return "a table"
	default:
		return "a date or time"
	}
}
