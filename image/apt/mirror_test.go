package apt

import (
	"strings"
	"testing"
)

func TestDefaultMirror(t *testing.T) {
	for _, test := range []struct{ name, aptGet, want string }{
		{"first of Debian's main", "echo http://h/security trixie-security main; echo http://h/other trixie contrib; echo http://h/debian/ trixie main", "http://h/debian/"},
		{"none with a password", "echo http://me:secret@h/debian trixie main", "http://default/debian"},
		{"none that only apt can read", "echo mirror+file:/etc/apt/mirrors trixie main", "http://default/debian"},
		{"no configuration", "exit 100", "http://default/debian"},
	} {
		t.Run(test.name, func(t *testing.T) {
			program(t, "debootstrap", "DEF_MIRROR=\"http://default/debian\"\n")
			program(t, "apt-get", test.aptGet)
			got, err := DefaultMirror(t.Context())
			if err != nil || got != test.want {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestNoDefaultMirror(t *testing.T) {
	program(t, "apt-get", "exit 0")
	program(t, "debootstrap", "\n")
	if _, err := DefaultMirror(t.Context()); err == nil || !strings.Contains(err.Error(), "names no default mirror: set mirror in the spec") {
		t.Errorf("got %v", err)
	}
}
