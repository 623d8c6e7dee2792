package rootfs

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"ephemeral-builder/image/command"
)

// answerTimeout bounds the wait for a mirror's first answer.
const answerTimeout = 30 * time.Second

// Release is what a mirror says of a suite right now.
type Release struct {
	Mirror   string // base URL, without a slash at the end
	Suite    string // as asked for: "stable"
	Codename string // what it stands for: "trixie"
	Date     string // the Release file's own Date field
	SHA256   string // of the InRelease file, lower-case hex: changes with every update of the suite
}

// Resolve asks mirror what suite stands for. An empty mirror means the host's own apt
// configuration or, where that names no Debian mirror, debootstrap's default. The answer
// is a hint only: debootstrap checks the signature of what it then downloads.
func Resolve(ctx context.Context, mirror, suite string) (Release, error) {
	if mirror == "" {
		var err error
		if mirror, err = defaultMirror(ctx); err != nil {
			return Release{}, err
		}
	}
	r := Release{Mirror: strings.TrimSuffix(mirror, "/"), Suite: suite}
	data, err := get(ctx, r.Mirror+"/dists/"+suite+"/InRelease")
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("suite %q is not on the mirror %s: use a Debian suite or codename, such as stable or trixie", suite, r.Mirror)
	}
	if err != nil {
		return r, fmt.Errorf("mirror %s does not answer: check the network, or set mirror in the spec: %w", r.Mirror, err)
	}
	sum := sha256.Sum256(data)
	r.SHA256 = hex.EncodeToString(sum[:])
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() && (r.Codename == "" || r.Date == "") {
		if value, ok := strings.CutPrefix(lines.Text(), "Codename: "); ok {
			r.Codename = value
		}
		if value, ok := strings.CutPrefix(lines.Text(), "Date: "); ok {
			r.Date = value
		}
	}
	if !regexp.MustCompile(`^[a-z][a-z0-9.-]*$`).MatchString(r.Codename) {
		return r, fmt.Errorf("mirror %s has no Codename for suite %q: is it a Debian mirror?", r.Mirror, suite)
	}
	return r, nil
}

// defaultMirror is the first mirror of Debian itself in apt's configuration, or else the
// one that debootstrap would take.
func defaultMirror(ctx context.Context) (string, error) {
	targets, err := command.Output(ctx, command.Cmd{Args: []string{
		"apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)",
		"Created-By: Packages", "Origin: Debian", "Label: Debian",
	}})
	if err == nil {
		for line := range strings.Lines(string(targets)) {
			uri, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			release, component, _ := strings.Cut(rest, " ")
			// It goes into the image and its manifest: one with a password must not.
			u, err := url.Parse(uri)
			public := err == nil && u.User == nil && (u.Scheme == "http" || u.Scheme == "https" || u.Scheme == "file")
			if component == "main" && !strings.Contains(release, "-") && public {
				return uri, nil
			}
		}
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	path, err := exec.LookPath("debootstrap")
	if err != nil {
		return "", fmt.Errorf("no Debian mirror in apt's configuration and no debootstrap to ask: set mirror in the spec: %w", err)
	}
	script, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	match := regexp.MustCompile(`(?m)^DEF_MIRROR="([^"]+)"`).FindSubmatch(script)
	if match == nil {
		return "", fmt.Errorf("%s names no default mirror: set mirror in the spec", path)
	}
	return string(match[1]), nil
}

// get reads a small file from an http, https or file URL. A file that is not there is
// [fs.ErrNotExist].
func get(ctx context.Context, address string) ([]byte, error) {
	if u, err := url.Parse(address); err == nil && u.Scheme == "file" {
		return os.ReadFile(u.Path)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		return io.ReadAll(io.LimitReader(response.Body, 16<<20))
	case http.StatusNotFound:
		return nil, fmt.Errorf("%s: %w", address, fs.ErrNotExist)
	default:
		return nil, fmt.Errorf("%s: %s", address, response.Status)
	}
}
