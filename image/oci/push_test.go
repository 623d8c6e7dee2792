package oci

import (
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// registryHost starts a registry and returns its HOST:PORT.
func registryHost(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir()) // not that of whoever runs the test
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("XDG_RUNTIME_DIR", "")
	server := httptest.NewServer(wrap(registry.New(registry.Logger(log.New(io.Discard, "", 0)))))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func open(h http.Handler) http.Handler { return h }

func TestPush(t *testing.T) {
	host := registryHost(t, open)
	one, two := testImage(t, "1", "abc"), testImage(t, "1.1~rc1", "defg")
	dir := write(t, "", one, two)

	got, err := Push(t.Context(), dir, "ci", "1.1~rc1", host+"/group/ci")
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(host + "/group/ci:1.1_rc1")
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if want := host + "/group/ci@" + digest.String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	// Again it is there already; under a tag of one's own it is new.
	if again, err := Push(t.Context(), dir, "ci", "1.1~rc1", host+"/group/ci"); err != nil || again != got {
		t.Errorf("got %s, %v, want %s", again, err, got)
	}
	if _, err := Push(t.Context(), dir, "ci", "1", host+"/group/ci:latest"); err != nil {
		t.Error(err)
	}

	// Other contents do not take its place.
	other := write(t, "", testImage(t, "1.1~rc1", "xyz"))
	if _, err := Push(t.Context(), other, "ci", "1.1~rc1", host+"/group/ci"); err == nil || !strings.Contains(err.Error(), "is there already with other contents") {
		t.Errorf("got %v", err)
	}
}

func TestPushArchitectures(t *testing.T) {
	host := registryHost(t, open)
	amd, arm := testImage(t, "1", "abc"), testImage(t, "1", "defg")
	arm.Architecture = "arm64"
	pushed, err := Push(t.Context(), write(t, "", amd, arm), "ci", "1", host+"/ci")
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(pushed)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
}

func TestPushRefused(t *testing.T) {
	host := registryHost(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	dir := write(t, "", testImage(t, "1", "abc"))
	for _, test := range []struct{ name, version, repository, want string }{
		{"ci", "1", host + "/ci", "log in with: docker login " + host},
		{"ci", "2", host + "/ci", "has no ci:2: publish it first"},
		{"ci", "1", host + "/CI", "use HOST/PATH or HOST/PATH:TAG"},
		{"ci", "1", host + "/ci@sha256:" + strings.Repeat("0", 64), "has a digest, which the image brings itself"},
	} {
		if _, err := Push(t.Context(), dir, test.name, test.version, test.repository); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s to %s: got %v, want %q", test.version, test.repository, err, test.want)
		}
	}
	login(t, host, "me", "secret")
	if _, err := Push(t.Context(), dir, "ci", "1", host+"/ci"); err != nil {
		t.Error(err)
	}
}

// login writes what docker login does.
func login(t *testing.T, host, user, password string) {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	text := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, auth)
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
