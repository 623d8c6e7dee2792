// Package lint finds what must not be in a published image, and what must: secrets,
// traces of the build, dangerous modes, unknown owners, missing essentials.
//
// It sees the image as a stream of entries on the way into the archive, collects, and
// judges at the end.
package lint

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Rules are what differs between specs.
type Rules struct {
	UID, GID int // of the builder

	// Setuid are the absolute paths of files that may have a setuid or setgid bit or file
	// capabilities besides those of Debian's base system and openssh-server.
	Setuid []string
}

// Finding is one thing that is wrong with an image.
type Finding struct {
	Path   string // absolute in the image, "/etc/machine-id"
	Wrong  string // "is not empty"
	Remedy string

	more int // so many more paths with the same
}

func (f *Finding) Error() string {
	// %q only where a name could garble the report.
	name := f.Path
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' }) {
		name = fmt.Sprintf("%q", name)
	}
	if f.more > 0 {
		name += fmt.Sprintf(" and %d more, each", f.more)
	}
	return name + " " + f.Wrong + ": " + f.Remedy
}

// Linter collects the entries of one image. Its Visit is an archive.Visitor.
type Linter struct {
	rules    Rules
	files    tree
	content  map[string]*bytes.Buffer // of the files in wanted
	findings []*Finding
}

func New(rules Rules) *Linter {
	return &Linter{rules: rules, files: tree{}, content: map[string]*bytes.Buffer{}}
}

// wanted are the files whose content rules look at.
var wanted = []string{"/etc/passwd", "/etc/group", "/etc/shadow"}

// Visit notes one entry, named "./" or "./etc/passwd" as in package archive. It wants the
// content of few files.
func (l *Linter) Visit(h *tar.Header) io.Writer {
	name := path.Clean("/" + h.Name)
	if h.Typeflag == tar.TypeLink {
		if f, ok := l.files[path.Clean("/"+h.Linkname)]; ok {
			l.files[name] = f
		}
		return nil
	}
	f := &file{
		kind: h.Typeflag, mode: h.Mode, uid: h.Uid, gid: h.Gid, size: h.Size, link: h.Linkname,
		caps: h.PAXRecords["SCHILY.xattr.security.capability"] != "",
	}
	l.files[name] = f
	switch {
	case f.kind != tar.TypeReg:
		return nil
	case slices.Contains(wanted, name):
		l.content[name] = &bytes.Buffer{}
		return l.content[name]
	case f.size <= keySize && slices.ContainsFunc(keyDirs, func(dir string) bool { return below(name, dir) }):
		return &keyFinder{file: f}
	}
	return nil
}

// keySize is more than any private key, even with certificates beside it, takes.
const keySize = 64 << 10

// keyDirs are where an administrator, a hook or a package's script puts private keys. (What
// packages themselves bring is public anyway.)
var keyDirs = []string{"/etc", "/root", "/home", "/opt", "/srv", "/usr/local", "/var/lib", "/var/www"}

var privateKey = regexp.MustCompile(`(?m)^-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY( BLOCK)?-----\r?$`)

// keyFinder looks for a private key in PEM or OpenPGP's armor once all content is there.
type keyFinder struct {
	file *file
	text []byte
}

func (k *keyFinder) Write(p []byte) (int, error) {
	k.text = append(k.text, p...)
	if int64(len(k.text)) == k.file.size {
		k.file.key = bytes.Contains(k.text, []byte("PRIVATE KEY")) && privateKey.Match(k.text)
		k.text = nil
	}
	return len(p), nil
}

// alike is how many findings that differ only in their path are reported each.
const alike = 5

// Findings judges the image once all entries have been visited. It returns nil or all
// that is wrong, joined with [errors.Join]: a [*Finding] and a line each, sorted by path.
// Of more than five that are alike, the rest is only counted.
func (l *Linter) Findings() error {
	l.findings = nil
	names := make([]string, 0, len(l.files))
	for name := range l.files {
		names = append(names, name)
	}
	slices.Sort(names)
	accounts := l.accounts()
	for _, name := range names {
		f := l.files[name]
		l.secrets(name, f)
		l.leftovers(name, f)
		l.modes(name, f)
		l.owners(name, f, accounts)
	}
	l.identity()
	l.passwords()
	l.builder()
	l.essentials()

	slices.SortStableFunc(l.findings, func(a, b *Finding) int { return cmp.Compare(a.Path, b.Path) })
	count := map[Finding]int{}
	for _, f := range l.findings {
		count[Finding{Wrong: f.Wrong, Remedy: f.Remedy}]++
	}
	var all []error
	shown := map[Finding]int{}
	for _, f := range l.findings {
		kind := Finding{Wrong: f.Wrong, Remedy: f.Remedy}
		shown[kind]++
		switch n := count[kind]; {
		case shown[kind] == alike && n > alike:
			f.more = n - alike
		case shown[kind] > alike:
			continue
		}
		all = append(all, f)
	}
	return errors.Join(all...)
}

func (l *Linter) found(name, remedy, format string, args ...any) {
	l.findings = append(l.findings, &Finding{Path: name, Wrong: fmt.Sprintf(format, args...), Remedy: remedy})
}
