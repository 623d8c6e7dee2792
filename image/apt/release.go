package apt

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"ephemeral-builder/image/fetch"
)

// Release is what an archive says of a suite.
type Release struct {
	Codename string // what the suite stands for: "trixie"
	Date     string // when it was made, as it is written there
	SHA256   string // of the InRelease file (or, without one, Release), lower-case hex: changes with every update of the suite

	validUntil                string
	components, architectures []string
}

var codenameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9./+~_-]*$`)

func parseRelease(text []byte) Release {
	sum := sha256.Sum256(text)
	r := Release{SHA256: hex.EncodeToString(sum[:])}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		switch value = strings.TrimSpace(value); name {
		case "Codename":
			if codenameForm.MatchString(value) {
				r.Codename = value
			}
		case "Date":
			r.Date = value
		case "Valid-Until":
			r.validUntil = value
		case "Components":
			r.components = strings.Fields(value)
		case "Architectures":
			r.architectures = strings.Fields(value)
		case "MD5Sum", "SHA1", "SHA256":
			return r // only digests follow
		}
	}
	return r
}

// expired tells whether it is for apt to say if r is too old.
func (r Release) expired() bool {
	if r.validUntil == "" {
		return false
	}
	until, err := time.Parse(time.RFC1123, r.validUntil)
	return err != nil || time.Now().After(until)
}

// Releases asks for the state of all sources right now, with one small request each and
// without apt-get. The answer is not verified: it is good to find out whether anything has
// changed since [Resolve], and for early and clear errors.
func Releases(ctx context.Context, sources []Source) ([]Release, error) {
	proxy, err := Proxy(ctx)
	if err != nil {
		return nil, err
	}
	releases := make([]Release, len(sources))
	group, ctx := errgroup.WithContext(ctx)
	for i, s := range sources {
		group.Go(func() error {
			text, err := readRelease(ctx, s, fetch.Options{Proxy: proxy})
			if err != nil {
				return err
			}
			releases[i] = parseRelease(text)
			if i == 0 && releases[i].Codename == "" {
				return fmt.Errorf("mirror %s has no Codename for suite %q: is it a Debian mirror?", s.URI, s.Suite)
			}
			return nil
		})
	}
	return releases, group.Wait()
}

func readRelease(ctx context.Context, s Source, o fetch.Options) ([]byte, error) {
	var text []byte
	err := error(fs.ErrNotExist)
	for _, name := range []string{"InRelease", "Release"} { // own archives may lack the first
		if errors.Is(err, fs.ErrNotExist) {
			text, err = fetch.Read(ctx, strings.TrimSuffix(s.URI, "/")+"/dists/"+s.Suite+"/"+name, 16<<20, o)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, noSuite(s)
	case err != nil && ctx.Err() == nil:
		return nil, noAnswer(s, err)
	}
	return text, err
}

func noSuite(s Source) error {
	return fmt.Errorf("suite %q is not on %s: use one of the folders below its dists/, such as stable or trixie", s.Suite, s.URI)
}

func noAnswer(s Source, err error) error {
	return fmt.Errorf("%s does not answer: check the network, or use another mirror: %w", s.URI, err)
}

// releases reads what apt has verified the lists with, and checks that the sources have
// what is asked of them: to apt, a component that does not exist is a warning.
func (p *private) releases() ([]Release, error) {
	releases := make([]Release, len(p.Sources))
	for i, s := range p.Sources {
		path := filepath.Join(p.Dir, "lists", listName(s)+"InRelease")
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			text, err = os.ReadFile(strings.TrimSuffix(path, "InRelease") + "Release")
		}
		if err != nil {
			return nil, err
		}
		r := parseRelease(text)
		if r.architectures != nil && !slices.Contains(r.architectures, p.Arch) {
			return nil, fmt.Errorf("suite %s of %s has no packages for %s: it has %s", s.Suite, s.URI, p.Arch, strings.Join(r.architectures, ", "))
		}
		for _, c := range s.Components {
			// Old security suites have "updates/main".
			if r.components != nil && !slices.ContainsFunc(r.components, func(has string) bool { return strings.HasSuffix("/"+has, "/"+c) }) {
				return nil, fmt.Errorf("suite %s of %s has no component %q: it has %s", s.Suite, s.URI, c, strings.Join(r.components, ", "))
			}
		}
		releases[i] = r
	}
	return releases, nil
}

// listName is what apt calls the files of a suite, before the last part of their names:
// URItoFileName in apt-pkg/strutl.cc.
func listName(s Source) string {
	_, uri, _ := strings.Cut(strings.TrimSuffix(s.URI, "/"), ":")
	var name strings.Builder
	for _, c := range []byte(strings.TrimPrefix(uri, "//") + "/dists/" + s.Suite + "/") {
		switch {
		case c == '/':
			name.WriteByte('_')
		case c <= ' ' || c >= 0x7f || strings.IndexByte("\\|{}[]<>\"^~_=!@#$%&*", c) >= 0:
			fmt.Fprintf(&name, "%%%02x", c)
		default:
			name.WriteByte(c)
		}
	}
	return name.String()
}
