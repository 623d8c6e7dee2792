package lint

import (
	"archive/tar"
	"path"
	"strings"
)

// file is what rules ask of an entry. All names of a hard link share one.
type file struct {
	kind     byte // as in tar
	mode     int64
	uid, gid int
	size     int64
	link     string // target of a symlink
	caps     bool   // has file capabilities
	key      bool   // has a private key in it
}

func (f *file) is(kind byte) bool { return f != nil && f.kind == kind }

// tree has all files by absolute path.
type tree map[string]*file

// follow returns the file that name leads to through symlinks, in its directories as well,
// all seen from the tree's root as in a container. It is nil if there is none.
func (t tree) follow(name string) *file {
	at := "/"
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		if part == "" || part == "." {
			continue
		}
		next := path.Join(at, part) // ".." of "/" is "/"
		f := t[next]
		if f.is(tar.TypeSymlink) {
			if links++; links > 40 { // as in Linux, path_resolution(7)
				return nil
			}
			if path.IsAbs(f.link) {
				next = "/"
			} else {
				next = at
			}
			rest = append(strings.Split(f.link, "/"), rest...)
		}
		at = next
	}
	return t[at]
}

// below tells whether name is in dir, at any depth.
func below(name, dir string) bool { return strings.HasPrefix(name, dir+"/") }
