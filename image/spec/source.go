package spec

import (
	"fmt"
	"regexp"
	"strings"
)

// Source is an archive of Debian packages besides the mirror: a [[sources]] of the file.
type Source struct {
	// URI is the http, https or file URL of the archive, of the same form as Spec.Mirror.
	URI string `toml:"uri" json:"uri"`

	// Suite is the folder below dists/, such as trixie-backports.
	Suite string `toml:"suite" json:"suite"`

	// Components are those of its parts to use, at least one; "main" if the file names none.
	Components []string `toml:"components" json:"components"`

	// Key is a file, relative to the spec's folder, with the OpenPGP public key, armored
	// or binary, that signs the suite. Empty means the Debian archive's own keyring.
	Key string `toml:"key" json:"key,omitempty"`
}

func sourceSettings(key string, s *Source) []setting {
	return []setting{
		{key + ".uri", &s.URI},
		{key + ".suite", &s.Suite},
		{key + ".components", &s.Components},
		{key + ".key", &s.Key},
	}
}

func (r *reader) assignSources(key string, dst *[]Source, value any) {
	list, ok := value.([]any)
	if !ok {
		r.report(key, "%s is %s: use a table for each, [[%s]] with uri and suite", key, kind(value), key)
		return
	}
	var sources []Source
	problems := len(r.problems)
	for i, item := range list {
		item, ok := item.(map[string]any)
		key := fmt.Sprintf("%s[%d]", key, i)
		if !ok {
			r.report(key, "%s is %s: use a table, [[sources]] with uri and suite", key, kind(list[i]))
			continue
		}
		s := Source{Components: []string{"main"}}
		// A source's own keys come first: of two that are as near, they are meant.
		in := reader{settings: append(sourceSettings(key, &s), r.settings...)}
		in.table(key, item)
		r.problems = append(r.problems, in.problems...)
		sources = append(sources, s)
	}
	if len(r.problems) == problems {
		*dst = sources
	}
}

var (
	// The folder below dists/, so "bullseye/updates" too, but nothing that leads out of it.
	sourceSuiteForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+~_-]*(/[A-Za-z0-9][A-Za-z0-9.+~_-]*)*$`)
	componentForm   = sourceSuiteForm
)

// sourceProblems checks all that can be checked without the archive.
func sourceProblems(sources []Source) (found []problem) {
	type suite struct{ uri, name string }
	seen := map[suite]bool{}
	for i, s := range sources {
		key := fmt.Sprintf("sources[%d]", i)
		report := func(name, format string, args ...any) {
			key := key + "." + name
			found = append(found, problem{key: key, text: key + fmt.Sprintf(format, args...)})
		}
		switch {
		case s.URI == "":
			report("uri", " is missing: %s", urlForm)
		case !mirrorForm.MatchString(s.URI):
			report("uri", " is no plain URL: %s", urlForm) // without the value: see mirror
		}
		id := suite{strings.TrimSuffix(s.URI, "/"), s.Suite}
		switch {
		case s.Suite == "":
			report("suite", " is missing: use the name of a folder below dists/, such as trixie-backports")
		case !sourceSuiteForm.MatchString(s.Suite):
			report("suite", " %q: use the name of a folder below dists/, such as trixie-backports: an archive without dists/ can't be used", s.Suite)
		case seen[id]:
			report("suite", " %q is listed twice for this uri: name all components in one of the two", s.Suite)
		}
		seen[id] = true
		if len(s.Components) == 0 {
			report("components", " is empty: leave it out for main alone")
		}
		component := map[string]bool{}
		for j, name := range s.Components {
			switch item := fmt.Sprintf("components[%d]", j); {
			case !componentForm.MatchString(name):
				report(item, " %q is no component: use main, contrib, non-free or what else the archive has", name)
			case component[name]:
				report(item, " %q is listed twice: remove one", name)
			}
			component[name] = true
		}
		if s.Key != "" {
			if text := pathProblem(s.Key); text != "" {
				report("key", " %s", text)
			}
		}
	}
	return found
}
