// Package lock is the file that says which packages an image is made of, down to their
// bytes: NAME_VERSION_ARCH.lock. A build that is given one takes exactly these, or fails.
//
// It is TOML. Each package is one line, so that a diff of two locks reads well:
//
//	architecture = 'amd64'
//	sources = [
//	  {uri = 'http://host/debian', suite = 'stable', codename = 'trixie', date = 'Sat, 21 Nov 2026 09:15:44 UTC', inrelease = '04ab…'}
//	]
//	packages = [
//	  {name = 'adduser', version = '3.152', architecture = 'all', sha256 = '0b12…', size = 191804, path = 'pool/main/a/adduser/adduser_3.152_all.deb'},
//	  …
package lock

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"ephemeral-builder/image/atomicfile"
)

// Lock is all that the packages of an image depend on.
type Lock struct {
	Architecture string    `toml:"architecture"` // Debian's name: "amd64"
	Sources      []Source  `toml:"sources,inline,multiline"`
	Packages     []Package `toml:"packages,inline,multiline"` // sorted by name and architecture
}

// Source is an archive as it was when the lock was made. The first one is Debian itself.
type Source struct {
	URI       string `toml:"uri"`                // http, https or file URL, without a slash at its end
	Suite     string `toml:"suite"`              // as asked for: "stable"
	Codename  string `toml:"codename,omitempty"` // what it stood for: "trixie"; only Debian must have one
	Date      string `toml:"date"`               // Date of the Release file, as it is written there
	InRelease string `toml:"inrelease"`          // SHA-256 of the InRelease file, lower-case hex
}

// Package is one Debian package.
type Package struct {
	Name         string `toml:"name"`
	Version      string `toml:"version"`
	Architecture string `toml:"architecture"` // that of the lock, or "all"
	SHA256       string `toml:"sha256"`       // of the .deb file, lower-case hex
	Size         int64  `toml:"size"`         // of the .deb file, in bytes
	Source       int    `toml:"source,omitempty"`
	Path         string `toml:"path"` // of the .deb file below the source's URI
}

// Read reads a lock and checks it, as it may come from anybody.
func Read(path string) (Lock, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Lock{}, err
	}
	l, err := parse(text)
	if err != nil {
		return Lock{}, fmt.Errorf("%s is no lock that can be used: take it again from where it was published, or build without it: %w", path, err)
	}
	return l, nil
}

func parse(text []byte) (Lock, error) {
	var l Lock
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&l); err != nil {
		var unknown *toml.StrictMissingError
		if errors.As(err, &unknown) {
			line, _ := unknown.Errors[0].Position()
			return Lock{}, fmt.Errorf("line %d: unknown key %q", line, strings.Join(unknown.Errors[0].Key(), "."))
		}
		var syntax *toml.DecodeError
		if errors.As(err, &syntax) {
			line, _ := syntax.Position()
			return Lock{}, fmt.Errorf("line %d: %w", line, err)
		}
		return Lock{}, err
	}
	if err := l.Validate(); err != nil {
		return Lock{}, err
	}
	l.sort()
	return l, nil
}

// Write writes l to a file, whole or not at all.
func (l Lock) Write(path string) error {
	if err := l.Validate(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	l.sort()
	text, err := toml.Marshal(l)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, text, 0o644)
}

func (l *Lock) sort() {
	l.Packages = slices.SortedFunc(slices.Values(l.Packages), func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Architecture, b.Architecture))
	})
}

var (
	architectureForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
	nameForm         = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)         // Debian Policy 5.6.1
	versionForm      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+:~-]*$`) // Debian Policy 5.6.12, but not all others begin with a digit
	pathForm         = regexp.MustCompile(`^[!-~]+\.deb$`)                  // no blanks: it becomes a word in shell
	digestForm       = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Validate tells what is missing or wrong in l.
func (l Lock) Validate() error {
	if !architectureForm.MatchString(l.Architecture) {
		return fmt.Errorf("architecture %q is not one of Debian's names, such as amd64", l.Architecture)
	}
	if len(l.Sources) == 0 || len(l.Packages) == 0 {
		return errors.New("it needs sources and packages")
	}
	for i, s := range l.Sources {
		if err := s.check(); err != nil {
			return fmt.Errorf("source %d: %w", i, err)
		}
	}
	if l.Sources[0].Codename == "" {
		return errors.New("source 0: codename is missing")
	}
	seen := map[string]bool{}
	for i, p := range l.Packages {
		if !nameForm.MatchString(p.Name) {
			return fmt.Errorf("package %d: name %q is no Debian package's", i, p.Name)
		}
		if err := l.check(p); err != nil {
			return fmt.Errorf("package %s: %w", p.Name, err)
		}
		if key := p.Name + ":" + p.Architecture; seen[key] {
			return fmt.Errorf("package %s is listed twice for %s", p.Name, p.Architecture)
		} else {
			seen[key] = true
		}
	}
	return nil
}

func (s Source) check() error {
	u, err := url.Parse(s.URI)
	switch {
	case err != nil || !slices.Contains([]string{"http", "https", "file"}, u.Scheme) || u.User != nil:
		// The value stays out of the message: it may hold a password.
		return errors.New("uri is no http, https or file URL without user name and password")
	case s.Suite == "":
		return errors.New("suite is missing")
	case s.Date == "":
		return errors.New("date is missing")
	case !digestForm.MatchString(s.InRelease):
		return fmt.Errorf("inrelease %q is no SHA-256 of 64 hexadecimal digits in lower case", s.InRelease)
	}
	return nil
}

func (l Lock) check(p Package) error {
	switch {
	case !versionForm.MatchString(p.Version):
		return fmt.Errorf("version %q is no Debian version", p.Version)
	case p.Architecture != l.Architecture && p.Architecture != "all":
		return fmt.Errorf("architecture %q is neither %s nor all", p.Architecture, l.Architecture)
	case !digestForm.MatchString(p.SHA256):
		return fmt.Errorf("sha256 %q is not 64 hexadecimal digits in lower case", p.SHA256)
	case p.Size <= 0:
		return fmt.Errorf("size %d is not above zero", p.Size)
	case p.Source < 0 || p.Source >= len(l.Sources):
		return fmt.Errorf("source %d is none of the %d sources", p.Source, len(l.Sources))
	case !fs.ValidPath(p.Path) || !pathForm.MatchString(p.Path):
		return fmt.Errorf("path %q is no relative path of a .deb file", p.Path)
	}
	return nil
}

// URL is where the .deb file of a package of l is.
func (l Lock) URL(p Package) string {
	// The same as apt, so that proxies have it in their cache under this name; and object
	// stores take a "+" for a blank.
	return strings.TrimSuffix(l.Sources[p.Source].URI, "/") + "/" + strings.NewReplacer("%", "%25", "#", "%23", "?", "%3f", "+", "%2b", "~", "%7e").Replace(p.Path)
}

// Entries are the packages of l as [Diff] takes them.
func (l Lock) Entries() []Entry {
	entries := make([]Entry, len(l.Packages))
	for i, p := range l.Packages {
		entries[i] = Entry{p.Name, p.Version, p.Architecture}
	}
	return entries
}
