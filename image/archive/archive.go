// Package archive packs the tar stream of a root file system into a .tar.zst file and
// unpacks it again, byte-identically for equal trees.
//
// The tar inside is POSIX pax (pax(1)), which every tar reads:
//
//   - Entries are named "./", "./etc/", "./etc/passwd", as `tar -C TREE -c .` names
//     them. A directory comes before what is in it, and the names in a directory are
//     sorted bytewise, as by GNU tar's --sort=name.
//   - Owners are numbers only. Times are modification times in whole seconds.
//   - A file with several names is stored under the first; the others are hard links.
//   - Extended attributes are SCHILY.xattr.* records, for files and directories:
//     security.capability, user.* and POSIX ACLs. Others (security.selinux,
//     trusted.overlay.*, …) describe the host and not the image: they are left out,
//     and ignored when unpacking.
//   - Devices and sockets are left out: a container gets its own. FIFOs are kept.
//   - Sparse files are stored in full.
package archive

import (
	"archive/tar"
	"context"
	"encoding/hex"
	"errors"
	"hash"
	"io"
)

// Summary describes one archive. It is the same for whoever packed it and whoever
// unpacked it.
type Summary struct {
	TarSHA256 string // of the uncompressed tar with its padding, 64 lower-case hex digits
	TarSize   int64  // of the uncompressed tar, in bytes
	Entries   int    // files, directories and links
}

// Visitor looks at the entries of an archive as they pass, in the archive's order. It
// returns where the content of a regular file is to be written too, or nil. An error of
// that writer ends the pass. The header is the visitor's to keep, not to change.
type Visitor func(h *tar.Header) (content io.Writer)

type visitors []Visitor

// open shows h to all visitors. It returns nil if none wants the content.
func (all visitors) open(h *tar.Header) io.Writer {
	var writers []io.Writer
	for _, visit := range all {
		if w := visit(h); w != nil && h.Typeflag == tar.TypeReg {
			writers = append(writers, w)
		}
	}
	switch len(writers) {
	case 0:
		return nil
	case 1:
		return writers[0]
	}
	return io.MultiWriter(writers...)
}

// ErrDamaged is wrapped by the errors of reading, for a stream that ends too early, has
// changed since it was packed, or never was a .tar.zst.
var ErrDamaged = errors.New("archive is cut short or damaged")

// copySize is the size of the one buffer that file contents pass through. io.Copy
// would allocate one for each file.
const copySize = 256 << 10

// meter sees all bytes of the uncompressed tar pass. As everything passes here, it is
// also where a run notices the end of its context.
type meter struct {
	ctx      context.Context
	hash     hash.Hash
	size     int64
	progress func(int64)
}

func (m *meter) Write(p []byte) (int, error) {
	if m.ctx.Err() != nil {
		return 0, context.Cause(m.ctx)
	}
	m.hash.Write(p)
	m.size += int64(len(p))
	if m.progress != nil {
		m.progress(m.size)
	}
	return len(p), nil
}

func (m *meter) summary(entries int) Summary {
	return Summary{TarSHA256: hex.EncodeToString(m.hash.Sum(nil)), TarSize: m.size, Entries: entries}
}
