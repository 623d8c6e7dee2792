package units

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"

	"ephemeral-builder/scripts"
)

// The dashboard asks for nothing that script metrics does not write.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	// By Grafana's own types, with all that a panel and a query must and may have. Its error is one
	// of no mistakes, and not nil, if there are none.
	plugins.RegisterDefaultPlugins()
	//lint:ignore SA1019 version 2 of the schema is not what every Grafana imports.
	err = new(dashboard.Dashboard).UnmarshalJSONStrict(text)
	if mistakes, ok := err.(cog.BuildErrors); !ok && err != nil || len(mistakes) > 0 {
		t.Error(err)
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
