package apt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// update makes the lists those that the archives have now.
func (p *private) update(ctx context.Context) error {
	p.stage.Detail("asking for news of %s", p.Sources[0].Suite)
	now, err := Releases(ctx, p.Sources)
	if err != nil {
		return err
	}
	if have, err := p.have(now); have || err != nil {
		return err
	}
	_, err = p.get(ctx, func(_, stderr string) error { return p.explainUpdate(stderr) }, "update", "-q")
	return err
}

// have tells whether the lists are those of the given releases. apt moves a Release file
// into its folder together with the indexes that it vouches for.
func (p *private) have(releases []Release) (bool, error) {
	dir := filepath.Join(p.Dir, "lists")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	have := map[string]bool{}
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), "Release") {
			text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
			if err != nil {
				return false, err
			}
			sum := sha256.Sum256(text)
			have[hex.EncodeToString(sum[:])] = true
		}
	}
	for _, r := range releases {
		if !have[r.SHA256] || r.expired() {
			return false, nil
		}
	}
	return true, nil
}

// explainUpdate says in a line what apt-get update says in many. The words are those of
// apt 2.6 to 3.3; what is not among them is passed on.
func (p *private) explainUpdate(stderr string) error {
	for _, known := range []struct {
		words   []string
		explain func(s Source, line string) error
	}{
		{[]string{"No space left on device"}, func(Source, string) error {
			return fmt.Errorf("the disk of %s is full: free some space, or set XDG_CACHE_HOME to a folder on another disk", p.Dir)
		}},
		{[]string{"is not signed", "signature verification"}, func(s Source, _ string) error {
			if s.Key != nil {
				return fmt.Errorf("suite %s of %s is not signed with its key: check the key in the spec", s.Suite, s.URI)
			}
			return fmt.Errorf("suite %s of %s is not signed by Debian: name its key in the spec, use another mirror, or update debian-archive-keyring", s.Suite, s.URI)
		}},
		{[]string{"is expired (invalid since "}, func(s Source, line string) error {
			_, ago, _ := strings.Cut(line, "(invalid since ")
			ago, _, _ = strings.Cut(ago, ")")
			return fmt.Errorf(`suite %s of %s expired %s ago: use a mirror that is up to date, or for an archive of the past put Acquire::Check-Valid-Until "false"; into apt.conf`, s.Suite, s.URI, ago)
		}},
		{[]string{"is not valid yet"}, func(s Source, _ string) error {
			return fmt.Errorf("suite %s of %s is from the future: set the clock of this machine", s.Suite, s.URI)
		}},
		{[]string{"Hash Sum mismatch", "has unexpected size"}, func(s Source, _ string) error {
			return fmt.Errorf("%s has an index that its Release file does not vouch for, as when a mirror is being updated: try again in some minutes", s.URI)
		}},
		{[]string{"does not have a Release file", "no longer has a Release file"}, func(s Source, _ string) error { return noSuite(s) }},
		{[]string{"Failed to fetch"}, func(s Source, line string) error {
			_, reason, _ := strings.Cut(line, "Failed to fetch ")
			return noAnswer(s, errors.New(strings.Join(strings.Fields(reason), " ")))
		}},
	} {
		for line := range strings.Lines(stderr) {
			for _, words := range known.words {
				if strings.Contains(line, words) {
					return known.explain(p.sourceIn(line), line)
				}
			}
		}
	}
	return firstError(stderr)
}

// sourceIn is the source that a line of apt's is about: it has "URI SUITE" or a URL below it.
func (p *private) sourceIn(line string) Source {
	for _, s := range p.Sources {
		uri := strings.Replace(strings.TrimSuffix(s.URI, "/"), "file://", "file:", 1)
		if strings.Contains(line, uri+" "+s.Suite+" ") || strings.Contains(line, uri+"/dists/"+s.Suite+"/") {
			return s
		}
	}
	return p.Sources[0]
}
