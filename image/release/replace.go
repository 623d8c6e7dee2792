package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What stands between the name of the published folder and a number in the name of a new one,
// and of an old one where two names can't be exchanged.
const newInfix, oldInfix = ".new-", ".old-"

// replace makes work the published folder, in one step, and removes the old one.
//
// Where the file system can't exchange names (NFS, FUSE, Linux before 3.15: EINVAL or ENOSYS),
// the old folder is renamed first. Then for an instant there is none; a release that is
// killed just there is undone by sweep.
func replace(work, out string, exchange func(a, b string) error) error {
	old := work
	_, err := os.Lstat(out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = os.Rename(work, out)
	case err == nil:
		err = exchange(work, out)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		old = out + oldInfix + strings.TrimPrefix(work, out+newInfix)
		if err = os.Rename(out, old); err == nil {
			if err = os.Rename(work, out); err != nil {
				err = errors.Join(err, os.Rename(old, out))
			}
		}
	}
	if errors.Is(err, unix.EXDEV) { // overlayfs, for a folder of a lower layer
		return fmt.Errorf("%s can't be replaced on this file system: give another folder with -out: %w", out, err)
	}
	if err != nil {
		return fmt.Errorf("replacing %s: %w", out, err)
	}
	if err := flush(filepath.Dir(out), unix.Fsync); err != nil {
		return err
	}
	if err := os.RemoveAll(old); err != nil {
		return fmt.Errorf("%s is published, but the folder it replaced is still there: %w", out, err)
	}
	return nil
}

// sweep removes what killed releases left beside out. Nobody else may be at work.
func sweep(out string) error {
	entries, err := os.ReadDir(filepath.Dir(out))
	if err != nil {
		return err
	}
	_, absent := os.Lstat(out)
	for _, entry := range entries {
		path := filepath.Join(filepath.Dir(out), entry.Name())
		number, isOld := strings.CutPrefix(path, out+oldInfix)
		rest, isNew := strings.CutPrefix(path, out+newInfix)
		if !isOld {
			number = rest
		}
		if !isOld && !isNew || number == "" || strings.Trim(number, "0123456789") != "" || !entry.IsDir() {
			continue
		}
		if isOld && errors.Is(absent, fs.ErrNotExist) {
			if err := os.Rename(path, out); err != nil {
				return err
			}
			absent = nil
		} else if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// settle makes all that is new in work readable for a web server, whatever the umask, and
// puts it on the disk. The folder itself gets the mode of the one it replaces.
func settle(work, out string) error {
	mode := fs.FileMode(0o755)
	if info, err := os.Stat(out); err == nil {
		mode = info.Mode()
	}
	err := filepath.WalkDir(work, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case path == work:
			return os.Chmod(path, mode)
		case d.IsDir():
			return os.Chmod(path, 0o755)
		case d.Type().IsRegular() && info.Sys().(*syscall.Stat_t).Nlink == 1: // not published
			return os.Chmod(path, 0o644)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush(work, unix.Syncfs) // one call, and not one for each file and folder
}

func flush(dir string, how func(fd int) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := how(int(d.Fd())); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}

// equal tells whether two paths have the same contents. The first may be absent.
func equal(ctx context.Context, a, b string) (bool, error) {
	x, err := os.Lstat(a)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	y, err := os.Lstat(b)
	if err != nil || x.Mode().Type() != y.Mode().Type() {
		return false, err
	}
	switch x.Mode().Type() {
	case fs.ModeDir:
		return equalDirs(ctx, a, b)
	case fs.ModeSymlink:
		one, err := os.Readlink(a)
		if err != nil {
			return false, err
		}
		two, err := os.Readlink(b)
		return one == two, err
	}
	if os.SameFile(x, y) || x.Size() != y.Size() {
		return os.SameFile(x, y), nil
	}
	return equalFiles(ctx, a, b)
}

func equalDirs(ctx context.Context, a, b string) (bool, error) {
	one, err := os.ReadDir(a)
	if err != nil {
		return false, err
	}
	two, err := os.ReadDir(b)
	if err != nil || len(one) != len(two) {
		return false, err
	}
	for i, entry := range one {
		if entry.Name() != two[i].Name() {
			return false, nil
		}
		if same, err := equal(ctx, filepath.Join(a, entry.Name()), filepath.Join(b, entry.Name())); err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

func equalFiles(ctx context.Context, a, b string) (bool, error) {
	one, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer one.Close()
	two, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer two.Close()
	const size = 64 << 10
	for x, y := make([]byte, size), make([]byte, size); ; {
		n, end := io.ReadFull(reader{ctx, one}, x)
		m, _ := io.ReadFull(two, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if end == io.EOF || end == io.ErrUnexpectedEOF {
			return true, nil
		}
		if end != nil {
			return false, end
		}
	}
}
