package spec

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// entry is one thing in a files folder.
type entry struct {
	name string // relative to the folder, with slashes
	info fs.FileInfo
	link string // where a symbolic link leads
}

// walk visits what is in dir, folders before their content and sorted by name, and says
// what is unfit for an image: "etc/fifo is …". It never follows a symbolic link.
func walk(dir string, visit func(*os.Root, entry) error) (unfit []string, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		e := entry{name: name}
		if e.info, err = d.Info(); err != nil {
			return err
		}
		if e.info.Mode()&fs.ModeSymlink != 0 {
			if e.link, err = root.Readlink(name); err != nil {
				return err
			}
		}
		text := e.unfit(dir)
		if text == "" {
			return visit(root, e)
		}
		unfit = append(unfit, name+" "+text)
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	return unfit, err
}

// unfit says why e can't be laid over an image, or is "".
func (e entry) unfit(dir string) string {
	if to, ok := merged(e.name); ok {
		return fmt.Sprintf("would replace the link to %s that Debian has there: move it to %s", to, to)
	}
	for _, dir := range unseen {
		if e.name == dir || strings.HasPrefix(e.name, dir+"/") {
			remedy := "remove it"
			if dir == "home/builder" {
				remedy = "move it to home/builder.template"
			}
			return fmt.Sprintf("would be seen by no container, as each has a %s of its own: %s", dir, remedy)
		}
	}
	switch e.info.Mode().Type() {
	case 0, fs.ModeDir:
		return ""
	case fs.ModeSymlink:
		inside := path.Join(path.Dir(e.name), e.link)
		switch {
		case path.IsAbs(e.link) && strings.HasPrefix(e.link+"/", filepath.ToSlash(dir)+"/"),
			!path.IsAbs(e.link) && !filepath.IsLocal(inside):
			return fmt.Sprintf("is a link to %s, on this machine: let it lead to where the image has it", e.link)
		}
		return ""
	default:
		return "is a device, a socket or a pipe: remove it, an image has files, folders and symbolic links only"
	}
}

// unseen is what containers mount something over, and what a build empties at its end.
var unseen = []string{"dev", "proc", "sys", "run", "tmp", "var/tmp", "var/run", "var/lock", "home/builder"}

// merged is where name really lies if it begins with one of the links that Debian has in
// the root since /usr was merged: usr/lib for lib/systemd.
func merged(name string) (to string, ok bool) {
	switch first, _, _ := strings.Cut(name, "/"); first {
	case "bin", "sbin", "lib", "lib32", "lib64", "libx32":
		return "usr/" + first, true
	default:
		return "", false
	}
}

// tarWriter writes entries with nothing of the machine in them.
type tarWriter struct {
	*tar.Writer
	epoch time.Time
}

func newTarWriter(w io.Writer, epoch time.Time) tarWriter {
	return tarWriter{tar.NewWriter(w), epoch}
}

func (w tarWriter) add(root *os.Root, e entry) error {
	h := &tar.Header{Name: e.name, ModTime: w.epoch, Mode: 0o644, Format: tar.FormatPAX}
	switch {
	case e.info.IsDir():
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, e.name+"/", 0o755
		return w.WriteHeader(h)
	case e.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
		return w.WriteHeader(h)
	}
	h.Typeflag, h.Size = tar.TypeReg, e.info.Size()
	if e.info.Mode()&0o100 != 0 {
		h.Mode = 0o755
	}
	file, err := root.Open(e.name)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(w, file)
	if errors.Is(err, tar.ErrWriteTooLong) || err == nil && n != h.Size {
		return fmt.Errorf("%s changes while it is read: build again when nothing writes to it", e.name)
	}
	return err
}
