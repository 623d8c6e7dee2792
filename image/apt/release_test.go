package apt

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const inRelease = `-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

Origin: Debian
Suite: stable
Codename: trixie
Date: Sat, 14 Nov 2026 10:00:00 UTC
Valid-Until: Sat, 21 Nov 2026 10:00:00 UTC
Architectures: all amd64
Components: main contrib
SHA256:
 Date: no field
`

// serve is an archive on a web server, reached without the host's proxy.
func serve(t *testing.T) *httptest.Server {
	t.Helper()
	program(t, "apt-config", "")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/debian/dists/stable/InRelease", "/debian/dists/old/Release":
			w.Write([]byte(inRelease))
		case "/debian/dists/empty/InRelease":
		case "/debian/dists/broken/InRelease":
			w.WriteHeader(http.StatusBadGateway)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

func TestReleases(t *testing.T) {
	server := serve(t)
	mirror := server.URL + "/debian"
	got, err := Releases(t.Context(), []Source{{URI: mirror + "/", Suite: "stable"}, {URI: mirror, Suite: "old"}, {URI: mirror, Suite: "empty"}})
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range got[:2] {
		if r.Codename != "trixie" || r.Date != "Sat, 14 Nov 2026 10:00:00 UTC" || r.SHA256 != digest(inRelease) {
			t.Errorf("%d: got %+v", i, r)
		}
	}
	if got[2].SHA256 != digest("") {
		t.Errorf("got %+v", got[2])
	}
	for suite, want := range map[string]string{
		"trixy":  `suite "trixy" is not on ` + mirror + ": use one of the folders",
		"empty":  "is it a Debian mirror?",
		"broken": "does not answer: check the network, or use another mirror",
	} {
		if _, err := Releases(t.Context(), []Source{{URI: mirror, Suite: suite}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("suite %q: got %v, want an error with %q", suite, err, want)
		}
	}

	server.Close()
	if _, err := Releases(t.Context(), []Source{{URI: mirror, Suite: "stable"}}); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("closed server: got %v", err)
	}
}

// A mirror that accepts and says nothing must not hold up a build for ever.
func TestReleasesEndsWithItsContext(t *testing.T) {
	program(t, "apt-config", "")
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Releases(ctx, []Source{{URI: server.URL, Suite: "stable"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want deadline exceeded", err)
	}
}

func TestParseRelease(t *testing.T) {
	r := parseRelease([]byte(inRelease))
	if !r.expired() || strings.Join(r.components, " ") != "main contrib" || strings.Join(r.architectures, " ") != "all amd64" {
		t.Errorf("got %+v", r)
	}
	for text, want := range map[string]bool{
		"": false,
		"Valid-Until: " + time.Now().UTC().Add(time.Hour).Format(time.RFC1123):  false,
		"Valid-Until: " + time.Now().UTC().Add(-time.Hour).Format(time.RFC1123): true,
		"Valid-Until: tomorrow": true, // for apt to judge
	} {
		if got := parseRelease([]byte(text)).expired(); got != want {
			t.Errorf("%q: got expired %v, want %v", text, got, want)
		}
	}
	if got := parseRelease([]byte("Codename: a b\n")).Codename; got != "" {
		t.Errorf("got codename %q", got)
	}
}

func TestListName(t *testing.T) {
	for _, test := range []struct{ uri, suite, want string }{
		{"http://host/debian/", "trixie", "host_debian_dists_trixie_"},
		{"https://host:8080/debian", "buster/updates", "host:8080_debian_dists_buster_updates_"},
		{"file:///srv/a_b", "s~1", "_srv_a%5fb_dists_s%7e1_"},
		{"file:/srv", "x", "_srv_dists_x_"},
	} {
		if got := listName(Source{URI: test.uri, Suite: test.suite}); got != test.want {
			t.Errorf("%s %s: got %q, want %q", test.uri, test.suite, got, test.want)
		}
	}
}
