package inventory

import (
	"testing"

	"github.com/github/go-spdx/v2/spdxexp"
)

// The names are from the copyright files of Debian 13, but for the malformed ones.
func TestSPDXExpression(t *testing.T) {
	for name, want := range map[string]string{
		"":                              "",
		"Expat":                         "MIT",
		"expat":                         "MIT",
		"BSD-3-clause":                  "BSD-3-Clause",
		"bsd-3-clause":                  "BSD-3-Clause",
		"Apache-2.0":                    "Apache-2.0",
		"Apache-2":                      "Apache-2.0",
		"Apache-2.0+":                   "Apache-2.0+",
		"MPL-1.1+":                      "MPL-1.1+",
		"ZLIB":                          "Zlib",
		"CC0":                           "CC0-1.0",
		"GPL":                           "GPL-1.0-or-later",
		"GPL-2":                         "GPL-2.0-only",
		"GPL-2.0":                       "GPL-2.0-only",
		"GPL-2.0-only":                  "GPL-2.0-only",
		"GPL-2+":                        "GPL-2.0-or-later",
		"GPL-2.0+":                      "GPL-2.0-or-later",
		"LGPL-2":                        "LGPL-2.0-only",
		"LGPL-2.1+":                     "LGPL-2.1-or-later",
		"LGPL-2.0-or-later":             "LGPL-2.0-or-later",
		"AGPL-3+":                       "AGPL-3.0-or-later",
		"GFDL-1.3+":                     "GFDL-1.3-or-later",
		"gfdl-1.2+":                     "GFDL-1.2-or-later",
		"GFDL-NIV-1.3":                  "GFDL-1.3-no-invariants-only",
		"GFDL-NIV-1.3+":                 "GFDL-1.3-no-invariants-or-later",
		"GPL-7":                         "LicenseRef-GPL-7",
		"public-domain":                 "LicenseRef-public-domain",
		"BSD":                           "LicenseRef-BSD",
		"MIT/X11":                       "LicenseRef-MIT-X11",
		"LGPL-2.1+-with-link-exception": "LicenseRef-LGPL-2.1plus-with-link-exception",
		"GPL version 2":                 "LicenseRef-GPL-version-2",
		"ÄÖ":                            "LicenseRef-unnamed",
		"GPL-1+ or Artistic":            "GPL-1.0-or-later OR Artistic-1.0-Perl",
		"Expat and/or CC0":              "MIT OR CC0-1.0",
		"Inner-Net and LGPL-2.1+":       "LicenseRef-Inner-Net AND LGPL-2.1-or-later",
		"Expat or GPL-1+ or Artistic":   "MIT OR GPL-1.0-or-later OR Artistic-1.0-Perl",
		"GPL-1+ or Artistic, and Expat": "(GPL-1.0-or-later OR Artistic-1.0-Perl) AND MIT",
		"Expat, and GPL-1+ or Artistic": "MIT AND (GPL-1.0-or-later OR Artistic-1.0-Perl)",
		"MPL-1.1, GPL-2+ or LGPL-2.1+":  "MPL-1.1 OR GPL-2.0-or-later OR LGPL-2.1-or-later",
		"MPL-1.1, GPL-2+, or LGPL-2.1+": "MPL-1.1 OR GPL-2.0-or-later OR LGPL-2.1-or-later",
		"Expat, ISC":                    "MIT AND ISC",
		"GPL-2 with Linux-syscall-note exception":              "GPL-2.0-only WITH Linux-syscall-note",
		"GPL-2+ with Libtool exception":                        "GPL-2.0-or-later WITH Libtool-exception",
		"GPL-3+ with Bison exception":                          "GPL-3.0-or-later WITH Bison-exception-2.2",
		"GPL-2+ with OpenSSL exception":                        "LicenseRef-GPL-2plus-with-OpenSSL-exception",
		"GPL-3+ with Autoconf exception":                       "LicenseRef-GPL-3plus-with-Autoconf-exception",
		"OpenLDAP-2.8 and GPL-2+ with Libtool exception":       "OLDAP-2.8 AND GPL-2.0-or-later WITH Libtool-exception",
		"GPL-2+ with distribution exception, Expat and GPL-2+": "LicenseRef-GPL-2plus-with-distribution-exception AND MIT AND GPL-2.0-or-later",
		"(GPL-2 or MIT) and ISC":                               "LicenseRef-GPL-2-or-MIT-and-ISC",
		"GPL-2 or":                                             "LicenseRef-GPL-2-or",
		"or":                                                   "LicenseRef-or",
		"ISC or or Expat":                                      "ISC OR MIT",
		",":                                                    "LicenseRef-unnamed",
		"ISC,":                                                 "ISC",
		"GPL-2 with":                                           "LicenseRef-GPL-2-with",
	} {
		got := spdxExpression(name)
		if got != want {
			t.Errorf("spdxExpression(%q): got %q, want %q", name, got, want)
		}
		if ok, _ := spdxexp.ValidateLicenses([]string{got}); !ok && got != "" {
			t.Errorf("spdxExpression(%q): %q is no SPDX expression", name, got)
		}
	}
}

func FuzzSPDXExpression(f *testing.F) {
	f.Add("GPL-2+ with distribution exception, Expat and/or GPL-2+ or , and")
	f.Fuzz(func(t *testing.T, name string) {
		got := spdxExpression(name)
		if ok, _ := spdxexp.ValidateLicenses([]string{got}); !ok && got != "" {
			t.Errorf("spdxExpression(%q): %q is no SPDX expression", name, got)
		}
	})
}
