package apt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"

	"ephemeral-builder/image/lock"
)

// known tells which names are not those of packages. apt-get would take some of them for
// patterns, and choose whatever fits: "+" and "." mean something in a regular expression.
func known(lists []list, names []string) error {
	all := map[string]bool{}
	for _, l := range lists {
		for s := range l.stanzas() {
			all[s.field("Package")] = true
		}
	}
	var errs []error
	for _, name := range names {
		if all[name] {
			continue
		}
		text := fmt.Sprintf("package %q is in no source", name)
		if by := providers(lists, name); len(by) > 0 {
			text += ": choose a package that provides it: " + strings.Join(by[:min(5, len(by))], ", ")
		} else if near := nearest(name, all); near != "" {
			text += fmt.Sprintf(": did you mean %q?", near)
		} else {
			text += ": check its name, the suite and the components"
		}
		errs = append(errs, errors.New(text))
	}
	return errors.Join(errs...)
}

// providers are the packages that provide a virtual one.
func providers(lists []list, name string) []string {
	var found []string
	for _, l := range lists {
		for s := range l.stanzas() {
			for provided := range strings.SplitSeq(s.field("Provides"), ",") {
				if first, _, _ := strings.Cut(strings.TrimSpace(provided), " "); first == name {
					found = append(found, s.field("Package"))
				}
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// nearest is the name that another one is most likely a misspelling of, or "".
func nearest(name string, all map[string]bool) string {
	before := func(a, b string) bool {
		return cmp.Or(cmp.Compare(commonPrefix(name, b), commonPrefix(name, a)), cmp.Compare(a, b)) < 0
	}
	best, distance := "", max(1, len(name)/4)+1
	for candidate := range all {
		if d := len(candidate) - len(name); max(d, -d) > distance {
			continue
		}
		d := levenshtein.ComputeDistance(name, candidate)
		if d < distance || d == distance && best != "" && before(candidate, best) {
			best, distance = candidate, d
		}
	}
	return best
}

func commonPrefix(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// solve has apt choose, and returns the URLs of the chosen packages, not escaped.
func (p *private) solve(ctx context.Context, names []string) (map[string]bool, error) {
	out, err := p.get(ctx, explainSolve, append([]string{"install", "--print-uris", "-q", "-y", "--"}, names...)...)
	if err != nil {
		return nil, err
	}
	urls := map[string]bool{}
	for line := range strings.Lines(out) {
		// 'URL' FILE SIZE DIGEST
		quoted, ok := strings.CutPrefix(line, "'")
		if !ok {
			continue
		}
		address, _, _ := strings.Cut(quoted, "'")
		if address, err = url.PathUnescape(address); err != nil {
			return nil, err
		}
		urls[address] = true
	}
	return urls, nil
}

func explainSolve(stdout, stderr string) error {
	const most = 6
	var reasons []string
	// apt 3 knows it better than earlier ones.
	_, unmet, ok := strings.Cut(stderr, "Reached two conflicting ")
	if ok {
		_, unmet, _ = strings.Cut(unmet, "\n")
	} else {
		_, unmet, _ = strings.Cut(stdout, "unmet dependencies:\n")
	}
	for line := range strings.Lines(unmet) {
		if !strings.HasPrefix(line, " ") {
			break
		}
		reasons = append(reasons, strings.Join(strings.Fields(line), " "))
	}
	if len(reasons) == 0 {
		return firstError(stderr)
	}
	if more := len(reasons) - most; more > 0 {
		reasons = append(reasons[:most], fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("the packages can't be installed together: leave some out, or use another suite:\n    %s", strings.Join(reasons, "\n    "))
}

// result looks the chosen packages up in the lists.
func (p *private) result(releases []Release, lists []list, urls map[string]bool) (lock.Lock, []byte, error) {
	l := lock.Lock{Architecture: p.Arch}
	for i, r := range releases {
		l.Sources = append(l.Sources, lock.Source{URI: strings.TrimSuffix(p.Sources[i].URI, "/"), Suite: p.Sources[i].Suite, Codename: r.Codename, Date: r.Date, InRelease: r.SHA256})
	}
	type chosen struct {
		lock.Package
		stanza stanza
	}
	var all []chosen
	for _, list := range lists {
		for s := range list.stanzas() {
			file := s.field("Filename")
			if !urls[list.uri+file] {
				continue
			}
			delete(urls, list.uri+file) // a later source may have the same
			size, err := strconv.ParseInt(s.field("Size"), 10, 64)
			if err != nil {
				return lock.Lock{}, nil, fmt.Errorf("%s: size of %s: %w", list.path, file, err)
			}
			all = append(all, chosen{stanza: s, Package: lock.Package{
				Name: s.field("Package"), Version: s.field("Version"), Architecture: s.field("Architecture"),
				SHA256: s.field("SHA256"), Size: size, Source: list.source, Path: path.Clean(file),
			}})
		}
	}
	for address := range urls {
		return lock.Lock{}, nil, fmt.Errorf("apt-get chose %s, which is in no index: remove %s and try again", address, p.Dir)
	}
	slices.SortFunc(all, func(a, b chosen) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Architecture, b.Architecture))
	})
	var stanzas []byte
	for _, c := range all {
		l.Packages = append(l.Packages, c.Package)
		stanzas = append(append(stanzas, c.stanza...), "\n\n"...)
	}
	return l, stanzas, l.Validate()
}
