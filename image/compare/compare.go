// Package compare says in what two archives of a tree differ, path by path. It is what a
// build that should have been reproducible is looked at with.
package compare

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"ephemeral-builder/image/archive"
)

// Difference is one aspect in which two archives differ at one path.
type Difference struct {
	Path string // absolute in the tree; empty if it is about the archive as a whole
	What string // kind, content, mode, owner, owner names, mtime, target, entry, encoding, or the key of an extended attribute

	// What the archives have there. Empty is nothing: with What "entry", the path is in
	// the other archive only.
	First, Second string
}

func (d Difference) String() string {
	name := shown(d.Path)
	switch {
	case d.Path == "":
		return fmt.Sprintf("%s: %s, %s", d.What, d.First, d.Second)
	case d.What == "entry" && d.Second == "":
		return fmt.Sprintf("%s: %s, only in the first", name, d.First)
	case d.What == "entry":
		return fmt.Sprintf("%s: %s, only in the second", name, d.Second)
	}
	return fmt.Sprintf("%s: %s: %s, %s", name, d.What, orNone(d.First), orNone(d.Second))
}

// Tarballs compares two archives, each a .tar.zst or a plain .tar with its entries in the
// order of [archive.Compare], as `tar --sort=name` makes it. Both are read side by side, a
// chunk at a time. The differences are in that order too; none means that the tars,
// uncompressed, are the same byte for byte.
//
// Errors say which of the two they are about, and wrap [archive.ErrDamaged] for a bad one.
func Tarballs(ctx context.Context, first, second io.Reader) ([]Difference, error) {
	a, err := open(ctx, "first archive", first)
	if err != nil {
		return nil, err
	}
	defer a.in.Close()
	b, err := open(ctx, "second archive", second)
	if err != nil {
		return nil, err
	}
	defer b.in.Close()
	var list []Difference
	if err := a.next(); err != nil {
		return nil, err
	}
	if err := b.next(); err != nil {
		return nil, err
	}
	for a.h != nil || b.h != nil {
		order := 0
		switch {
		case a.h == nil:
			order = 1
		case b.h == nil:
			order = -1
		default:
			order = archive.Compare(a.name, b.name)
		}
		switch {
		case order < 0:
			list = append(list, Difference{Path: a.name, What: "entry", First: describe(a.h)})
		case order > 0:
			list = append(list, Difference{Path: b.name, What: "entry", Second: describe(b.h)})
		default:
			found, err := entry(a, b)
			if err != nil {
				return nil, err
			}
			list = append(list, found...)
		}
		if order <= 0 {
			if err := a.next(); err != nil {
				return nil, err
			}
		}
		if order >= 0 {
			if err := b.next(); err != nil {
				return nil, err
			}
		}
	}
	// What we don't compare, such as access times, or how numbers are written.
	if x, y := a.in.Summary(), b.in.Summary(); len(list) == 0 && x != y {
		list = append(list, Difference{What: "encoding", First: encoding(x), Second: encoding(y)})
	}
	return list, nil
}

func encoding(s archive.Summary) string {
	return fmt.Sprintf("tar of %d bytes with SHA-256 %s", s.TarSize, s.TarSHA256)
}

// side is one of the two archives and where we are in it.
type side struct {
	which string
	in    *archive.Reader
	h     *tar.Header // nil at the end
	name  string      // of h, absolute
}

func open(ctx context.Context, which string, r io.Reader) (*side, error) {
	buffered := bufio.NewReader(r)
	magic, err := buffered.Peek(4)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("%s: %w", which, err)
	}
	s := &side{which: which}
	if !bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) { // RFC 8878, 3.1.1
		s.in = archive.NewTarReader(ctx, buffered)
		return s, nil
	}
	if s.in, err = archive.NewReader(ctx, buffered); err != nil {
		return nil, fmt.Errorf("%s: %w", which, err)
	}
	return s, nil
}

func (s *side) next() error {
	before, start := s.name, s.h == nil
	var err error
	if s.h, err = s.in.Next(); err == io.EOF {
		s.h = nil
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.which, err)
	}
	s.name = path.Clean("/" + s.h.Name)
	if !start && archive.Compare(before, s.name) >= 0 {
		return fmt.Errorf("%s: %s comes after %s: make it with `tar --sort=name`", s.which, shown(s.name), shown(before))
	}
	return nil
}

// entry compares one path that both archives have.
func entry(a, b *side) ([]Difference, error) {
	var list []Difference
	differ := func(what, first, second string) {
		if first != second {
			list = append(list, Difference{a.name, what, first, second})
		}
	}
	if kind(a.h) != kind(b.h) {
		differ("kind", describe(a.h), describe(b.h))
	} else {
		differ("target", a.h.Linkname, b.h.Linkname)
		first, second, err := content(a, b)
		if err != nil {
			return nil, err
		}
		differ("content", first, second)
		differ("device", device(a.h), device(b.h))
	}
	differ("mode", fmt.Sprintf("%04o", a.h.Mode&0o7777), fmt.Sprintf("%04o", b.h.Mode&0o7777))
	differ("owner", fmt.Sprintf("%d:%d", a.h.Uid, a.h.Gid), fmt.Sprintf("%d:%d", b.h.Uid, b.h.Gid))
	differ("owner names", a.h.Uname+":"+a.h.Gname, b.h.Uname+":"+b.h.Gname)
	differ("mtime", a.h.ModTime.UTC().Format(time.RFC3339Nano), b.h.ModTime.UTC().Format(time.RFC3339Nano))
	x, y := xattrs(a.h), xattrs(b.h)
	keys := maps.Clone(x)
	maps.Copy(keys, y)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		differ(key, x[key], y[key])
	}
	return list, nil
}

func kind(h *tar.Header) string {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return "file"
	case tar.TypeDir:
		return "directory"
	case tar.TypeSymlink:
		return "symlink"
	case tar.TypeLink:
		return "hard link"
	case tar.TypeFifo:
		return "fifo"
	case tar.TypeChar:
		return "character device"
	case tar.TypeBlock:
		return "block device"
	}
	return fmt.Sprintf("kind %q", h.Typeflag)
}

func device(h *tar.Header) string { return fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor) }

// describe is for an entry that can't be compared with another.
func describe(h *tar.Header) string {
	switch k := kind(h); {
	case h.Linkname != "":
		return k + " to " + shown(h.Linkname)
	case k == "file":
		return fmt.Sprintf("file of %d bytes", h.Size)
	default:
		return k
	}
}

// xattrs are the extended attributes, quoted: an empty one is not one that is missing.
func xattrs(h *tar.Header) map[string]string {
	all := map[string]string{}
	for record, value := range h.PAXRecords {
		if key, ok := strings.CutPrefix(record, "SCHILY.xattr."); ok {
			all[key] = fmt.Sprintf("%q", value)
		}
	}
	return all
}

// content compares the current files of both sides. It returns the same text twice if they
// are equal, and else sizes and what comes at the first difference.
func content(a, b *side) (first, second string, err error) {
	if kind(a.h) != "file" {
		return "", "", nil
	}
	bufA, bufB := make([]byte, chunk), make([]byte, chunk)
	for at := 0; ; at += chunk {
		n, errA := io.ReadFull(a.in, bufA)
		if errA != nil && errA != io.EOF && errA != io.ErrUnexpectedEOF {
			return "", "", fmt.Errorf("%s: %s: %w", a.which, shown(a.name), errA)
		}
		m, errB := io.ReadFull(b.in, bufB)
		if errB != nil && errB != io.EOF && errB != io.ErrUnexpectedEOF {
			return "", "", fmt.Errorf("%s: %s: %w", b.which, shown(b.name), errB)
		}
		x, y := bufA[:n], bufB[:m]
		if bytes.Equal(x, y) {
			if n < chunk {
				return "", "", nil
			}
			continue
		}
		i := 0
		for i < min(n, m) && x[i] == y[i] {
			i++
		}
		return excerpt(a.h.Size, at+i, x[i:]), excerpt(b.h.Size, at+i, y[i:]), nil
	}
}

// chunk is how much of both files is held at a time, in bytes.
const chunk = 64 << 10

// excerpt shows the beginning of rest, which is what a file has from offset at on.
func excerpt(size int64, at int, rest []byte) string {
	if len(rest) == 0 {
		return fmt.Sprintf("%d bytes", size)
	}
	return fmt.Sprintf("%d bytes, at %d %q", size, at, rest[:min(len(rest), 24)])
}
