package sysupdate

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata anew")

func TestTransfers(t *testing.T) {
	got, err := Transfers(Options{URL: "https://example.org/ci%20images", Name: "ephemeral-builder", Dir: "/var/lib/container", Keep: 2})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range got {
		names = append(names, file.Name)
		golden := filepath.Join("testdata", file.Name)
		if *update {
			if err := os.WriteFile(golden, file.Text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if string(file.Text) != string(want) {
			t.Errorf("%s differs from %s (go test -update writes it anew):\n%s", file.Name, golden, file.Text)
		}
	}
	for _, file := range got {
		if url := URL(file.Text); url != "https://example.org/ci%20images/" {
			t.Errorf("%s: the URL is read back as %q", file.Name, url)
		}
	}
	if url := URL([]byte("[Target]\nPath=/var\n")); url != "" {
		t.Errorf("a file without a source has the URL %q", url)
	}
	if got, want := strings.Join(names, " "), "ephemeral-builder.manifest.transfer ephemeral-builder.transfer"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTransfersRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"no scheme":  {URL: "example.org/images", Keep: 2},
		"file":       {URL: "file:///srv/images", Keep: 2}, // 257 looks for another signature there
		"password":   {URL: "https://me:secret@example.org/", Keep: 2},
		"query":      {URL: "https://example.org/?a=b", Keep: 2},
		"line break": {URL: "https://example.org/\nVerify=no", Keep: 2},
		"one":        {URL: "https://example.org/", Keep: 1},
	} {
		if _, err := Transfers(o); err == nil {
			t.Errorf("%s: got no error", name)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the message has the password: %v", name, err)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	for version, want := range map[string]bool{
		"20260102150405": true, "1.2-3+b1": true, "1.2": true,
		"1.2~rc1": false, "1.2^git1": false, "": false,
	} {
		if err := CheckVersion(version); (err == nil) != want {
			t.Errorf("%s: got %v", version, err)
		}
	}
}
