// Package provenance states how an image was made, for those who verify it by machine: an
// in-toto Statement v1 (https://in-toto.io/Statement/v1) with a SLSA provenance v1
// predicate (https://slsa.dev/provenance/v1).
//
// Equal inputs give equal bytes. That is why the statement has no run metadata (invocation,
// start, end), which SLSA leaves optional: it would be the only file beside the image that
// a second build can't confirm. When it was signed, its signature says.
package provenance

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"ephemeral-builder/image/lock"
)

// namespace is where our own names live. A URN of a UUID (RFC 9562) is the one kind of URI
// that needs no domain to be owned, and what it names is for people in its fragment.
const namespace = "urn:uuid:ac413356-6114-4c8d-bc28-35b1a3d9a583#ephemeral-builder/"

// BuildType says what the parameters below mean, and how to build the image again:
//
//   - externalParameters.spec is the spec, with all its keys; externalParameters.version
//     is the image's version.
//   - internalParameters.epoch is the latest time of any file, in seconds since 1970;
//     internalParameters.architecture is systemd's name of the architecture.
//   - resolvedDependencies are: "inputs", the digest over the spec and all files it names;
//     "builder", the commit of the program that built; "InRelease …", the signed index of
//     each archive; and each .deb file, as NAME_VERSION_ARCHITECTURE.
const BuildType = namespace + "build/v1"

// LocalBuilder is the builder.id of a build that nobody vouches for: one on somebody's own
// machine.
const LocalBuilder = namespace + "local"

// Build is all that an image was made from.
type Build struct {
	Subjects []Subject

	Spec         any    // the whole spec, as encoding/json is to write it
	Inputs       string // SHA-256 over the spec and what it refers to, lower-case hex
	Version      string // of the image
	Architecture string // systemd's name: "x86-64"
	Epoch        time.Time
	Lock         lock.Lock // the packages

	// Builder is the URI of the platform that ran the build, for example of a CI project;
	// [LocalBuilder] if empty. It is what a verifier decides to trust.
	Builder string
	Tool    map[string]string // versions of the programs that matter, by name; may be empty
	Commit  string            // git commit of this program, 40 hex digits; empty if unknown
}

// Subject is a file that the statement is about.
type Subject struct {
	Name   string // base name
	SHA256 string // lower-case hex
}

// Statement returns the statement as JSON: keys sorted, two spaces of indentation, a
// newline at the end.
func Statement(b Build) ([]byte, error) {
	if err := b.Lock.Validate(); err != nil {
		return nil, fmt.Errorf("lock for the provenance: %w", err)
	}
	external, err := object(map[string]any{"spec": b.Spec, "version": b.Version})
	if err != nil {
		return nil, fmt.Errorf("spec for the provenance: %w", err)
	}
	internal, err := object(map[string]any{"architecture": b.Architecture, "epoch": b.Epoch.Unix()})
	if err != nil {
		return nil, err
	}
	predicate := &slsa.Provenance{
		BuildDefinition: &slsa.BuildDefinition{
			BuildType:            BuildType,
			ExternalParameters:   external,
			InternalParameters:   internal,
			ResolvedDependencies: dependencies(b),
		},
		RunDetails: &slsa.RunDetails{Builder: &slsa.Builder{Id: cmp.Or(b.Builder, LocalBuilder), Version: b.Tool}},
	}
	if err := predicate.Validate(); err != nil {
		return nil, err
	}
	s := &intoto.Statement{
		Type:          intoto.StatementTypeUri,
		PredicateType: "https://slsa.dev/provenance/v1",
		Predicate:     &structpb.Struct{},
	}
	for _, f := range b.Subjects {
		if f.Name == "" {
			return nil, errors.New("a subject of the provenance has no name")
		}
		s.Subject = append(s.Subject, file(f.Name, "", f.SHA256))
	}
	if err := convert(predicate, s.Predicate); err != nil {
		return nil, err
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return canonical(s)
}

func dependencies(b Build) []*intoto.ResourceDescriptor {
	all := []*intoto.ResourceDescriptor{file("inputs", "", b.Inputs)}
	if b.Commit != "" {
		all = append(all, &intoto.ResourceDescriptor{Name: "builder", Digest: map[string]string{"gitCommit": b.Commit}})
	}
	for i, s := range b.Lock.Sources {
		suite := s.Suite
		if i == 0 { // "stable" will be another suite; the others' codenames need be no folder
			suite = s.Codename
		}
		all = append(all, file("InRelease "+suite, strings.TrimSuffix(s.URI, "/")+"/dists/"+suite+"/InRelease", s.InRelease))
	}
	for _, p := range b.Lock.Packages {
		all = append(all, file(p.Name+"_"+p.Version+"_"+p.Architecture, b.Lock.URL(p), p.SHA256))
	}
	return all
}

func file(name, uri, sha256 string) *intoto.ResourceDescriptor {
	return &intoto.ResourceDescriptor{Name: name, Uri: uri, Digest: map[string]string{"sha256": sha256}}
}

// object turns a value into a JSON object of protobuf's kind, the way encoding/json would.
func object(value any) (*structpb.Struct, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	s := new(structpb.Struct)
	return s, protojson.Unmarshal(text, s)
}

func convert(from, to proto.Message) error {
	text, err := protojson.Marshal(from)
	if err != nil {
		return err
	}
	return protojson.Unmarshal(text, to)
}

// canonical writes a message as JSON. It is encoded twice, as protojson puts spaces here and
// there at random, so that nobody relies on its bytes.
func canonical(m proto.Message) ([]byte, error) {
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err = encoder.Encode(value)
	return out.Bytes(), err
}
