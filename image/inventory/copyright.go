package inventory

import (
	"slices"
	"strings"
)

// copyrightLicenses returns the licences that a machine-readable copyright file gives to
// files of the package, or nothing if the file isn't one.
//
// Package control's reader, which is right for dpkg's files, is wrong for these: where the
// short name is left out, as in libisl23, it takes the first line of the text for it. Nor
// does it know that names of fields may be in any case (Debian Policy 5.1).
func copyrightLicenses(text []byte) []string {
	var found []string
	var names []string // of this paragraph
	applies := true    // the first paragraph is about the whole package
	end := func() {
		for _, name := range names {
			if name == "" && applies {
				name = "unnamed"
			}
			if expression := spdxExpression(name); applies && expression != "" {
				found = append(found, expression)
			}
		}
		names, applies = nil, false
	}
	first := true
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, " \t\r\n")
		switch {
		case line == "":
			end()
			continue
		case strings.ContainsAny(line[:1], " \t#"): // the licence's text, or a comment
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok || strings.ContainsAny(key, " \t") {
			return nil // it isn't one after all: part of the list would be a false claim
		}
		key, value = strings.ToLower(key), strings.TrimSpace(value)
		if first && (key != "format" || !strings.Contains(value, "copyright-format") && !strings.Contains(value, "dep5")) {
			return nil
		}
		first = false
		switch key {
		case "files": // a License without Files is the text that others refer to
			applies = true
		case "license":
			names = append(names, value)
		}
	}
	end()
	slices.Sort(found)
	return slices.Compact(found)
}
