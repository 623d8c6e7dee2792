package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
	"pault.ag/go/debian/deb"

	"ephemeral-builder/image/command"
)

// worthwhile is the size of a package, in bytes, below which it is not decompressed ahead:
// of the 7 ms that it takes at this size, starting dpkg-deb is 2.4.
const worthwhile = 64 << 10

// decompress puts packages, given by their names, into dir as such that dpkg reads as
// fast as memory, under their files' names.
func (d Debs) decompress(ctx context.Context, dir string, names []string, cores int) error {
	files := map[string]string{}
	for _, f := range d.files {
		files[f.control.Package] = f.name
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(cores)
	for _, name := range names {
		file := files[name]
		group.Go(func() error {
			if err := decompress(ctx, filepath.Join(d.dir, file), filepath.Join(dir, file)); err != nil {
				return fmt.Errorf("decompressing %s: %w", file, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// header is what an ar(5) archive has before each member, headerSize bytes: name, time,
// owner, group, mode and size, of which dpkg looks at the first and the last.
func header(name string, size int64) string {
	return fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", size)
}

const headerSize = 60

// decompress writes an uncompressed package, see deb(5), that replaces result when it is
// complete. Of a small one it does nothing.
func decompress(ctx context.Context, path, result string) error {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	if info, err := from.Stat(); err != nil || info.Size() < worthwhile {
		return err
	}
	archive, err := deb.LoadAr(from)
	if err != nil {
		return err
	}
	to, err := os.Create(result + ".partial")
	if err != nil {
		return err
	}
	defer to.Close()
	defer os.Remove(to.Name()) // of no effect once it is renamed
	if _, err := io.WriteString(to, "!<arch>\n"); err != nil {
		return err
	}
	for {
		entry, err := archive.Next()
		if err == io.EOF {
			return errors.New("it has no data.tar")
		} else if err != nil {
			return err
		}
		if strings.HasPrefix(entry.Name, "data.tar") {
			break
		}
		head, padding := strings.NewReader(header(entry.Name, entry.Size)), strings.NewReader("\n"[:entry.Size%2])
		if _, err := io.Copy(to, io.MultiReader(head, entry.Data, padding)); err != nil {
			return err
		}
	}
	start, err := to.Seek(headerSize, io.SeekCurrent)
	if err != nil {
		return err
	}
	if err := command.Run(ctx, command.Cmd{
		Args: []string{"dpkg-deb", "--fsys-tarfile", path}, Env: []string{"DPKG_DEB_THREADS_MAX=1"}, Bulk: to,
	}); err != nil {
		return err
	}
	end, err := to.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := to.WriteAt([]byte(header("data.tar", end-start)), start-headerSize); err != nil {
		return err
	}
	return errors.Join(to.Close(), os.Rename(to.Name(), result))
}
