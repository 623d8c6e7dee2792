package archive

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Options change what [Pack] writes.
type Options struct {
	// Epoch is the latest modification time in the archive; later ones are set to it.
	// It is SOURCE_DATE_EPOCH of reproducible-builds.org. Zero leaves all times alone.
	Epoch time.Time

	// Skip tells what to leave out, a directory with all that is in it. Names are
	// relative to the tree, like "var/cache/apt/pkgcache.bin".
	Skip func(name string, d fs.DirEntry) bool

	// Progress is called with the number of tar bytes written so far, uncompressed.
	Progress func(bytes int64)
}

// Pack writes the tree to w as a .tar.zst. It does not enter other file systems that are
// mounted in the tree; the directory they are mounted on is kept, empty.
//
// Nothing may write to the tree meanwhile: a file that changes while it is read is an
// error that names it. After an error, what w received is not an archive.
func Pack(ctx context.Context, tree string, w io.Writer, opts Options) (Summary, error) {
	z, err := newEncoder(w, 0)
	if err != nil {
		return Summary{}, err
	}
	m := &meter{ctx: ctx, hash: sha256.New(), progress: opts.Progress}
	p := &packer{
		tree:  filepath.Clean(tree),
		opts:  opts,
		tar:   tar.NewWriter(io.MultiWriter(m, z)),
		buf:   make([]byte, copySize),
		first: map[inode]string{},
	}
	err = p.walk()
	if err == nil {
		err = p.tar.Close()
	}
	if err != nil {
		z.Reset(nil) // waits for the blocks still on their way to w; Close would complete the frame
		return Summary{}, fmt.Errorf("pack %s: %w", tree, err)
	}
	if err := z.Close(); err != nil {
		return Summary{}, fmt.Errorf("pack %s: %w", tree, err)
	}
	return m.summary(p.entries), nil
}

// newEncoder compresses like `zstd -3`, with a checksum over the content. The output is
// the same for any concurrency; 0 is one goroutine per CPU. (WithConcurrentBlocks would
// save a quarter of the time on two CPUs, for 700 MB of memory instead of 45.)
func newEncoder(w io.Writer, concurrency int) (*zstd.Encoder, error) {
	return zstd.NewWriter(w,
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(3)),
		zstd.WithEncoderCRC(true),
		zstd.WithEncoderConcurrency(concurrency))
}

type inode struct{ dev, ino uint64 }

type packer struct {
	tree    string
	opts    Options
	tar     *tar.Writer
	buf     []byte
	dev     uint64           // file system of the tree
	first   map[inode]string // entry name of each file that has several names
	entries int
}

func (p *packer) walk() error {
	// The slash makes the walk follow a tree that is itself a symlink.
	return filepath.WalkDir(p.tree+"/", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(p.tree, path)
		if err != nil {
			return err
		}
		if name != "." && p.opts.Skip != nil && p.opts.Skip(name, d) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		if name == "." {
			p.dev = stat.Dev
		}
		if err := p.add(path, name, info, stat); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		// Only directories: on overlayfs files can have another device than their directory.
		if d.IsDir() && stat.Dev != p.dev {
			return fs.SkipDir
		}
		return nil
	})
}

// add writes one entry. The header is made by hand, as tar.FileInfoHeader looks up
// names of owners on the host, and adds times that differ at every run.
func (p *packer) add(path, name string, info fs.FileInfo, stat *syscall.Stat_t) (err error) {
	h := &tar.Header{
		Format:  tar.FormatPAX,
		Name:    "./" + name,
		Mode:    int64(stat.Mode & 0o7777),
		Uid:     int(stat.Uid),
		Gid:     int(stat.Gid),
		ModTime: time.Unix(stat.Mtim.Sec, 0),
	}
	if !p.opts.Epoch.IsZero() && h.ModTime.After(p.opts.Epoch) {
		h.ModTime = p.opts.Epoch.Truncate(time.Second)
	}

	switch info.Mode().Type() {
	case fs.ModeDir:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
		if name == "." {
			h.Name = "./"
		}
	case 0:
		h.Typeflag = tar.TypeReg
		h.Size = info.Size()
	case fs.ModeSymlink:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
	case fs.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
	default:
		return nil
	}

	if h.Typeflag != tar.TypeDir && stat.Nlink > 1 {
		id := inode{stat.Dev, stat.Ino}
		if target, ok := p.first[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, target, 0
		} else {
			p.first[id] = h.Name
		}
	}
	if h.Typeflag == tar.TypeDir || h.Typeflag == tar.TypeReg {
		if h.PAXRecords, err = xattrRecords(path); err != nil {
			return err
		}
	}

	p.entries++
	if h.Typeflag == tar.TypeReg {
		return p.addFile(path, info, h)
	}
	return p.tar.WriteHeader(h)
}

func (p *packer) addFile(path string, info fs.FileInfo, h *tar.Header) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyBuffer(p.tar, io.LimitReader(f, h.Size), p.buf)
	if err != nil {
		return err
	}
	now, err := f.Stat()
	if err != nil {
		return err
	}
	if n != h.Size || now.Size() != h.Size || !now.ModTime().Equal(info.ModTime()) || !os.SameFile(now, info) {
		return errors.New("changed while it was read: stop what writes to the tree and pack again")
	}
	return nil
}
