package provenance

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"ephemeral-builder/image/lock"
)

func build() Build {
	return Build{
		Subjects: []Subject{{"ci_1_x86-64.tar.zst", strings.Repeat("0a", 32)}, {"ci_1_x86-64.tar.xz", strings.Repeat("0b", 32)}},
		Spec: struct {
			Name        string   `json:"name"`
			Concurrency int      `json:"concurrency"`
			Packages    []string `json:"packages"`
		}{"ci", 4, []string{"git", "g++"}},
		Inputs: strings.Repeat("0c", 32), Version: "1", Architecture: "x86-64", Epoch: time.Unix(1795252544, 0),
		Lock: lock.Lock{
			Architecture: "amd64",
			Sources: []lock.Source{
				{URI: "http://example.org/debian", Suite: "stable", Codename: "trixie", Date: "x", InRelease: strings.Repeat("0d", 32)},
				{URI: "https://example.net/extra/", Suite: "any", Date: "x", InRelease: strings.Repeat("0e", 32)},
			},
			Packages: []lock.Package{
				{Name: "g++", Version: "4:14.2.0-1", Architecture: "amd64", SHA256: strings.Repeat("0f", 32), Size: 1, Path: "pool/g++_14.2.0-1_amd64.deb"},
				{Name: "git", Version: "1:2.47-1~x", Architecture: "all", SHA256: strings.Repeat("1f", 32), Size: 1, Source: 1, Path: "git_2.47-1~x_all.deb"},
			},
		},
		Tool:   map[string]string{"ephemeral-builder": "v1", "debootstrap": "1.0.141"},
		Commit: strings.Repeat("ab", 20),
	}
}

const want = `{
  "_type": "https://in-toto.io/Statement/v1",
  "predicate": {
    "buildDefinition": {
      "buildType": "BUILDTYPE",
      "externalParameters": {
        "spec": {
          "concurrency": 4,
          "name": "ci",
          "packages": [
            "git",
            "g++"
          ]
        },
        "version": "1"
      },
      "internalParameters": {
        "architecture": "x86-64",
        "epoch": 1795252544
      },
      "resolvedDependencies": [
        {
          "digest": {
            "sha256": "{0c}"
          },
          "name": "inputs"
        },
        {
          "digest": {
            "gitCommit": "abababababababababababababababababababab"
          },
          "name": "builder"
        },
        {
          "digest": {
            "sha256": "{0d}"
          },
          "name": "InRelease trixie",
          "uri": "http://example.org/debian/dists/trixie/InRelease"
        },
        {
          "digest": {
            "sha256": "{0e}"
          },
          "name": "InRelease any",
          "uri": "https://example.net/extra/dists/any/InRelease"
        },
        {
          "digest": {
            "sha256": "{0f}"
          },
          "name": "g++_4:14.2.0-1_amd64",
          "uri": "http://example.org/debian/pool/g%2b%2b_14.2.0-1_amd64.deb"
        },
        {
          "digest": {
            "sha256": "{1f}"
          },
          "name": "git_1:2.47-1~x_all",
          "uri": "https://example.net/extra/git_2.47-1%7ex_all.deb"
        }
      ]
    },
    "runDetails": {
      "builder": {
        "id": "LOCAL",
        "version": {
          "debootstrap": "1.0.141",
          "ephemeral-builder": "v1"
        }
      }
    }
  },
  "predicateType": "https://slsa.dev/provenance/v1",
  "subject": [
    {
      "digest": {
        "sha256": "{0a}"
      },
      "name": "ci_1_x86-64.tar.zst"
    },
    {
      "digest": {
        "sha256": "{0b}"
      },
      "name": "ci_1_x86-64.tar.xz"
    }
  ]
}
`

func TestStatement(t *testing.T) {
	got, err := Statement(build())
	if err != nil {
		t.Fatal(err)
	}
	replace := []string{"BUILDTYPE", BuildType, "LOCAL", LocalBuilder}
	for _, two := range []string{"0a", "0b", "0c", "0d", "0e", "0f", "1f"} {
		replace = append(replace, "{"+two+"}", strings.Repeat(two, 32))
	}
	if want := strings.NewReplacer(replace...).Replace(want); string(got) != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// What others read of it is what the library reads: unknown or misspelled fields are errors.
func TestReadBack(t *testing.T) {
	text, err := Statement(build())
	if err != nil {
		t.Fatal(err)
	}
	var s intoto.Statement
	if err := protojson.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	predicate, err := s.Predicate.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var p slsa.Provenance
	if err := protojson.Unmarshal(predicate, &p); err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	if p.RunDetails.Metadata != nil {
		t.Errorf("run metadata %v makes each build's statement another", p.RunDetails.Metadata)
	}
	var spec, want any
	wantText, _ := json.Marshal(build().Spec)
	specText, _ := p.BuildDefinition.ExternalParameters.Fields["spec"].MarshalJSON()
	if json.Unmarshal(specText, &spec) != nil || json.Unmarshal(wantText, &want) != nil || !reflect.DeepEqual(spec, want) {
		t.Errorf("spec: got %s, want %s", specText, wantText)
	}
}

func TestDeterministic(t *testing.T) {
	first, err := Statement(build())
	if err != nil {
		t.Fatal(err)
	}
	again := build()
	again.Epoch = again.Epoch.In(time.FixedZone("elsewhere", 3600))
	if second, err := Statement(again); err != nil || !bytes.Equal(first, second) {
		t.Errorf("two runs differ, %v:\n%s\n%s", err, first, second)
	}
}

func TestBuilder(t *testing.T) {
	b := build()
	b.Builder, b.Commit, b.Tool = "https://ci.example.org/group/project", "", nil
	text, err := Statement(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(`"id": "https://ci.example.org/group/project"`)) || bytes.Contains(text, []byte("gitCommit")) {
		t.Errorf("got %s", text)
	}
}

func TestStatementRefuses(t *testing.T) {
	for want, change := range map[string]func(*Build){
		"at least one subject required": func(b *Build) { b.Subjects = nil },
		"has no name":                   func(b *Build) { b.Subjects[0].Name = "" },
		"got 1 bytes, want 32 bytes":    func(b *Build) { b.Subjects[1].SHA256 = "ab" },
		"got 0 bytes, want 32 bytes":    func(b *Build) { b.Inputs = "" },
		"(gitCommit: main)":             func(b *Build) { b.Commit = "main" },
		"it needs sources and packages": func(b *Build) { b.Lock.Packages = nil },
		"spec for the provenance":       func(b *Build) { b.Spec = make(chan int) },
	} {
		b := build()
		change(&b)
		if _, err := Statement(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}
