package units

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"ephemeral-builder/scripts"
)

// The dashboard asks for nothing that script metrics does not write.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(text) {
		t.Fatal("it is no JSON")
	}
	script, err := scripts.FS.ReadFile("metrics")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`ephemeral_builder_[a-z_]+`).FindAllString(string(text), -1)
	if len(names) == 0 {
		t.Error("it asks for nothing")
	}
	for _, name := range names {
		name = strings.TrimSuffix(strings.TrimPrefix(name, "ephemeral_builder_"), "_bucket")
		if !strings.Contains(string(script), "metric('"+name+"',") {
			t.Errorf("%s is not written", name)
		}
	}
}
