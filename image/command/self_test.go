package command

import (
	"os"
	"testing"
)

func TestSelf(t *testing.T) {
	before := os.Args
	t.Cleanup(func() { os.Args = before })
	for name, want := range map[string]string{
		"ephemeral-builder":                "ephemeral-builder install",
		"/usr/bin/ephemeral-builder":       "ephemeral-builder install",
		"/root/.magefile/0123456789abcdef": "go tool mage install",
	} {
		os.Args = []string{name}
		if got := Self("install"); got != want {
			t.Errorf("as %s: %s, want %s", name, got, want)
		}
	}
}
