package archive

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// UnpackOptions change how [Unpack] goes about it.
type UnpackOptions struct {
	// Progress is called with the number of tar bytes read so far, uncompressed.
	// It goes up to the archive's [Summary].TarSize.
	Progress func(bytes int64)
}

// Unpack reads a .tar.zst from r to its end and makes its tree in dir, which must exist
// and be empty. Compare the TarSHA256 it returns with one from a source you trust.
//
// No entry can reach outside dir, be it by "..", an absolute name or a symlink: such
// an archive is an error, as is one with devices or one that has the same name twice.
// Owners and file capabilities are restored if the caller is root, else left out.
//
// Errors wrap [ErrDamaged] for a bad stream, syscall.ENOSPC for a full disk. After one,
// dir holds part of the tree, for the caller to remove. Nothing is synced to the disk.
func Unpack(ctx context.Context, r io.Reader, dir string, opts UnpackOptions) (Summary, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Summary{}, fmt.Errorf("unpack: %w", err)
	}
	defer root.Close()
	if err := empty(root); err != nil {
		return Summary{}, fmt.Errorf("unpack into %s: %w", dir, err)
	}

	u := &unpacker{
		root: root,
		buf:  make([]byte, copySize),
		dirs: map[string]bool{".": true},
	}
	in, err := newReader(ctx, r, &meter{ctx: ctx, hash: sha256.New(), progress: opts.Progress})
	if err != nil {
		return Summary{}, err
	}
	defer in.Close()
	err = u.unpack(in)
	if err == nil {
		err = u.finishDirs()
	}
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("%w: free space there", err)
	}
	if err != nil {
		return Summary{}, fmt.Errorf("unpack into %s: %w", dir, err)
	}
	return in.Summary(), nil
}

func empty(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	switch _, err := d.Readdirnames(1); err {
	case io.EOF:
		return nil
	case nil:
		return errors.New("directory is not empty: remove what is in it, or choose another")
	default:
		return err
	}
}

type unpacker struct {
	root    *os.Root
	buf     []byte
	dirs    map[string]bool // made so far, by clean name
	pending []*tar.Header   // of directories, which are finished last
}

func (u *unpacker) unpack(in *Reader) error {
	for {
		h, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := u.entry(in, h); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

func (u *unpacker) entry(in io.Reader, h *tar.Header) error {
	name, err := u.inside(h.Name)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if name != "." {
			if err := u.root.Mkdir(name, 0o700); err != nil {
				return err
			}
		} else if len(u.pending) > 0 {
			return errors.New("comes late or twice: do not use this archive")
		}
		u.dirs[name] = true
		u.pending = append(u.pending, h)
		return nil
	case tar.TypeReg:
		return u.file(in, h, name)
	case tar.TypeLink:
		target, err := u.inside(h.Linkname)
		if err != nil {
			return fmt.Errorf("link target: %w", err)
		}
		return u.root.Link(target, name)
	case tar.TypeSymlink:
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return u.special(h, name, func(int, string) error { return nil })
	case tar.TypeFifo:
		return u.special(h, name, func(parent int, base string) error {
			// Opening the FIFO to chmod it could wait for its other end.
			if err := unix.Mkfifoat(parent, base, 0o600); err != nil {
				return err
			}
			return unix.Fchmodat(parent, base, uint32(h.Mode&0o7777), 0)
		})
	}
	return fmt.Errorf("kind %q is not a file, directory, link or fifo: remove it from the archive", h.Typeflag)
}

// inside returns the clean form of an entry's name. os.Root would not let it escape in
// any case; that its directory must have come before also keeps a symlink
// from leading it elsewhere within the tree.
func (u *unpacker) inside(name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", errors.New("leads out of the tree: do not use this archive")
	}
	name = path.Clean(name)
	if !u.dirs[path.Dir(name)] {
		return "", errors.New("is not in a directory of the archive: do not use this archive")
	}
	return name, nil
}

func (u *unpacker) file(in io.Reader, h *tar.Header, name string) error {
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		n, end := in.Read(u.buf)
		if _, err := f.Write(u.buf[:n]); err != nil {
			return err
		}
		if end == io.EOF {
			return u.finish(f, h, name)
		}
		if end != nil {
			return end
		}
	}
}

// finish closes f after giving it the owner, extended attributes, mode and time of h.
// In this order: chown takes away setuid bits and capabilities, and a mode can take
// away the right to set the others.
func (u *unpacker) finish(f *os.File, h *tar.Header, name string) error {
	if os.Geteuid() == 0 {
		if err := f.Chown(h.Uid, h.Gid); err != nil {
			return err
		}
	}
	if err := setXattrs(f, h.PAXRecords); err != nil {
		return err
	}
	if err := f.Chmod(h.FileInfo().Mode()); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return u.root.Chtimes(name, time.Time{}, h.ModTime)
}

// special finishes what cannot be opened, through its directory: makes it, then sets
// owner and time.
func (u *unpacker) special(h *tar.Header, name string, mk func(parent int, base string) error) error {
	d, err := u.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	parent, base := int(d.Fd()), path.Base(name)
	if err := mk(parent, base); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	mtime, err := unix.TimeToTimespec(h.ModTime)
	if err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	return unix.UtimesNanoAt(parent, base, times, unix.AT_SYMLINK_NOFOLLOW)
}

// finishDirs gives directories their owner, mode and time, innermost first: making what
// is in them would change the time, and the mode could forbid it.
func (u *unpacker) finishDirs() error {
	for i := len(u.pending) - 1; i >= 0; i-- {
		h := u.pending[i]
		name := path.Clean(h.Name)
		d, err := u.root.Open(name)
		if err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
		err = u.finish(d, h, name)
		d.Close()
		if err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	return nil
}
