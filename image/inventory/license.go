package inventory

import (
	"cmp"
	"regexp"
	"strings"

	"github.com/github/go-spdx/v2/spdxexp"
)

// spdxExpression translates a short name of Debian's copyright-format 1.0 ("GPL-2+ or
// Artistic, and Expat") into an SPDX expression. Names that SPDX does not know become
// LicenseRef-…; an empty name becomes an empty expression.
//
// "and" binds tighter than "or", and a comma looser than both. A comma without a word is
// the next one's: "A, B or C".
func spdxExpression(name string) string {
	if strings.TrimSpace(name) == "" {
		return ""
	}
	if strings.ContainsAny(name, "()") { // not in the format: people mean different things
		return licenseRef(name)
	}
	groups := strings.Split(name, ",")
	operator := "AND"
	expression := ""
	for n := len(groups) - 1; n >= 0; n-- {
		group, leading := splitGroup(groups[n])
		if group.text == "" {
			continue
		}
		if expression == "" {
			expression = group.text
			if leading == "" && group.operator != "" {
				leading = group.operator
			}
		} else {
			left, right := group.text, expression
			if operator == "AND" {
				left, right = parenthesised(left), parenthesised(right)
			}
			expression = left + " " + operator + " " + right
		}
		if leading != "" {
			operator = leading
		}
	}
	if ok, _ := spdxexp.ValidateLicenses([]string{expression}); !ok {
		return licenseRef(name)
	}
	return expression
}

type group struct {
	text     string // expression without commas
	operator string // its first AND or OR, if it has one
}

// splitGroup translates what stands between two commas, and returns the AND or OR that it
// begins with, if any.
func splitGroup(text string) (g group, leading string) {
	var parts, words []string
	for _, word := range strings.Fields(text) {
		operator := map[string]string{"and": "AND", "or": "OR", "and/or": "OR"}[strings.ToLower(word)]
		switch {
		case operator == "":
			words = append(words, word)
		case len(words) == 0:
			if len(parts) == 0 {
				leading = operator
			}
		default:
			parts = append(parts, spdxLicense(words), operator)
			words = nil
			if g.operator == "" {
				g.operator = operator
			}
		}
	}
	if len(words) > 0 {
		parts = append(parts, spdxLicense(words))
	}
	g.text = strings.Join(parts, " ")
	return g, leading
}

func parenthesised(expression string) string {
	if strings.Contains(expression, " OR ") {
		return "(" + expression + ")"
	}
	return expression
}

// spdxLicense translates one licence, perhaps with an exception: "GPL-2+", "with",
// "OpenSSL", "exception". SPDX 2.3 can't say "this licence with an exception of ours", so
// that an exception it does not know makes all of it a LicenseRef.
func spdxLicense(words []string) string {
	id, ok := spdxID(words[0])
	if len(words) == 1 && ok {
		return id
	}
	if len(words) > 2 && strings.EqualFold(words[1], "with") && ok {
		exception := strings.ToLower(strings.Join(words[2:], "-"))
		exception = strings.TrimSuffix(exception, "-exception")
		if known, ok := exceptions[exception]; ok {
			exception = known
		}
		for _, suffix := range []string{"", "-exception"} {
			valid, invalid := spdxexp.ValidateAndNormalizeLicensesWithOptions(
				[]string{id + " WITH " + exception + suffix}, spdxexp.ValidateLicensesOptions{})
			if len(invalid) == 0 {
				return valid[0]
			}
		}
	}
	return licenseRef(strings.Join(words, " "))
}

// names are Debian's short names that are spelled otherwise in SPDX. Only what stands for
// one text is here: not "BSD", and not "Autoconf exception", of which there are four.
var names = map[string]string{
	"artistic":     "Artistic-1.0-Perl", // the text in /usr/share/common-licenses is Perl's
	"cc0":          "CC0-1.0",
	"expat":        "MIT",
	"freebsd":      "BSD-2-Clause",
	"gpl":          "GPL-1.0-or-later", // section 9 of the GPL: no version is any version
	"lgpl":         "LGPL-2.0-or-later",
	"openldap-2.8": "OLDAP-2.8",
}

var exceptions = map[string]string{
	"bison":     "Bison-exception-2.2",
	"bison-2.2": "Bison-exception-2.2",
	"classpath": "Classpath-exception-2.0",
	"font":      "Font-exception-2.0",
}

// gnu is how Debian and older SPDX write GNU's licences; NIV is "no invariant sections".
var gnu = regexp.MustCompile(`(?i)^(AGPL|GPL|LGPL|GFDL)(-NIV)?-([0-9]+)(\.[0-9]+)?(\+|-or-later|-only)?$`)

// spdxID translates one short name. Identifiers of SPDX stand for themselves, in any case
// of letters, as copyright-format 1.0 took its names from there.
func spdxID(name string) (id string, ok bool) {
	if id, ok := names[strings.ToLower(name)]; ok {
		return id, true
	}
	if m := gnu.FindStringSubmatch(name); m != nil {
		family, niv, version, later := m[1], m[2], m[3]+m[4], "-or-later"
		if m[4] == "" {
			version += ".0"
		}
		if niv != "" {
			niv = "-no-invariants"
		}
		if m[5] == "" || strings.EqualFold(m[5], "-only") {
			later = "-only"
		}
		ok, id := spdxexp.ActiveLicense(family + "-" + version + niv + later)
		return id, ok
	}
	base, plus := strings.CutSuffix(name, "+")
	for _, candidate := range []string{base, base + ".0"} {
		if ok, id := spdxexp.ActiveLicense(candidate); ok {
			if plus {
				id += "+"
			}
			return id, true
		}
	}
	return "", false
}

var notInID = regexp.MustCompile(`[^A-Za-z0-9.]+`)

// licenseRef makes an identifier of SPDX's form [A-Za-z0-9.-]+ out of any text. The plus is
// spelled out: it tells two licences apart.
func licenseRef(name string) string {
	name = strings.ReplaceAll(name, "+", "plus")
	return "LicenseRef-" + cmp.Or(strings.Trim(notInID.ReplaceAllString(name, "-"), "-"), "unnamed")
}
