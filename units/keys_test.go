package units

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEnsureKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	made, wrote, err := EnsureKey(path, "test")
	if err != nil || len(wrote) != 2 {
		t.Fatalf("first call: wrote %q, %v, want two files", wrote, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("private key: %v, %v, want mode 0600", info.Mode(), err)
	}
	found, wrote, err := EnsureKey(path, "test")
	if err != nil || len(wrote) != 0 {
		t.Fatalf("second call: wrote %q, %v, want nothing", wrote, err)
	}
	if string(found.PublicKey().Marshal()) != string(made.PublicKey().Marshal()) {
		t.Error("the second call has another key")
	}
	if err := os.WriteFile(path, []byte("not a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := EnsureKey(path, "test"); err == nil || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("broken key: got %v, want an error with a remedy", err)
	}
	if text, _ := os.ReadFile(path); string(text) != "not a key" {
		t.Error("a file that is no key was overwritten")
	}
}
