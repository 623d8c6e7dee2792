package rootfs

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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
`

func TestResolve(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/debian/dists/stable/InRelease":
			w.Write([]byte(inRelease))
		case "/debian/dists/empty/InRelease":
		case "/debian/dists/broken/InRelease":
			w.WriteHeader(http.StatusBadGateway)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	mirror := server.URL + "/debian"

	got, err := Resolve(t.Context(), mirror+"/", "stable")
	if err != nil {
		t.Fatal(err)
	}
	if got.Mirror != mirror || got.Codename != "trixie" || got.Date != "Sat, 14 Nov 2026 10:00:00 UTC" || len(got.SHA256) != 64 {
		t.Errorf("got %+v", got)
	}
	for suite, want := range map[string]string{
		"trixy":  `suite "trixy" is not on the mirror`,
		"empty":  "is it a Debian mirror?",
		"broken": "does not answer: check the network, or set mirror in the spec",
	} {
		if _, err := Resolve(t.Context(), mirror, suite); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("suite %q: got %v, want an error with %q", suite, err, want)
		}
	}

	server.Close()
	if _, err := Resolve(t.Context(), mirror, "stable"); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("closed server: got %v", err)
	}
}

// A mirror that accepts and says nothing must not hold up a build for ever.
func TestResolveEndsWithItsContext(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Resolve(ctx, server.URL, "stable"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want deadline exceeded", err)
	}
}

func TestResolveFromFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "dists", "stable", "InRelease")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(inRelease), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := Resolve(t.Context(), "file://"+dir, "stable")
	if err != nil || got.Codename != "trixie" {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := Resolve(t.Context(), "file://"+dir, "sid"); err == nil || !strings.Contains(err.Error(), `suite "sid" is not on the mirror`) {
		t.Errorf("missing suite: got %v", err)
	}
}
