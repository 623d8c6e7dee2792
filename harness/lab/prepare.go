package lab

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"ephemeral-builder/image/archive"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/scripts"
)

// files go into the tree at their own paths: they make the host a lab.
//
//go:embed files
var files embed.FS

const prepareScript = "lab-prepare"

// prepare returns an open directory of cfg.Cache with what labs of this kind start from,
// and makes it if need be. Whoever has it open keeps it from being removed.
func prepare(ctx context.Context, cfg Config) (*os.File, error) {
	name, err := baseName(ctx, cfg)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cfg.Cache, name)
	for {
		base, err := use(dir)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return base, err
		}
		if err := makeBase(ctx, cfg, dir); err != nil {
			return nil, err
		}
		removeUnused(cfg, name)
	}
}

// baseName is KIND-SUITE-DIGEST, the digest being that of all that decides the content.
func baseName(ctx context.Context, cfg Config) (string, error) {
	hash := sha256.New()
	tree, err := os.Open(cfg.Tree)
	if err != nil {
		return "", err
	}
	defer tree.Close()
	if _, err := io.Copy(hash, reader{ctx, tree}); err != nil {
		return "", fmt.Errorf("reading %s: %w", cfg.Tree, err)
	}
	script, err := scripts.FS.ReadFile(prepareScript)
	if err != nil {
		return "", err
	}
	hash.Write(script)
	err = fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := files.ReadFile(path)
		fmt.Fprintf(hash, "%s %d\n%s", path, len(data), data)
		return err
	})
	return fmt.Sprintf("%s-%s-%.6x", cfg.Kind, cfg.Suite, hash.Sum(nil)), err
}

// use opens dir with a shared lock, which lasts as long as any process has the file open.
func use(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	before, err := f.Stat()
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_SH) // waits for a removal at most
	}
	if err == nil {
		var after fs.FileInfo
		after, err = os.Stat(dir)
		if err == nil && !os.SameFile(before, after) {
			err = fs.ErrNotExist // removed and made again
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// makeBase makes dir, unless another process has done so meanwhile.
func makeBase(ctx context.Context, cfg Config, dir string) error {
	tmp := dir + ".tmp"
	unlock, err := dirlock.Make(ctx, tmp)
	if err != nil {
		return err
	}
	defer unlock()
	defer os.RemoveAll(tmp)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	begin := time.Now()
	work := filepath.Join(tmp, "work")
	if err := os.RemoveAll(work); err != nil { // of a process that was killed
		return err
	}
	at := func(name string) string { return filepath.Join(work, name) }
	for _, name := range []string{"tree", "out"} {
		if err := os.MkdirAll(at(name), 0o755); err != nil {
			return err
		}
	}
	tree, err := os.Open(cfg.Tree)
	if err != nil {
		return err
	}
	defer tree.Close()
	if _, err := archive.Unpack(ctx, tree, at("tree"), archive.UnpackOptions{}); err != nil {
		return err
	}
	if err := os.CopyFS(work, files); err != nil {
		return err
	}
	if err := writeScript(prepareScript, work); err != nil {
		return err
	}
	owners := ""
	if os.Geteuid() != 0 {
		if owners, err = ownerCommands(ctx, cfg.Tree); err != nil {
			return err
		}
	}
	if err := os.WriteFile(at("owners"), []byte(owners), 0o600); err != nil {
		return err
	}
	err = command.Run(ctx, command.Cmd{Args: []string{"sh", at(prepareScript),
		string(cfg.Kind), at("tree"), at("files"), at("owners"), at("out")}})
	if err != nil {
		return err
	}
	cfg.Log("prepared %s in %.1f s", filepath.Base(dir), time.Since(begin).Seconds())
	return os.Rename(at("out"), dir)
}

// writeScript puts an embedded script where a shell can read it: its text as an argument
// would be part of every error.
func writeScript(name, dir string) error {
	script, err := scripts.FS.ReadFile(name)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), script, 0o755)
}

// removeUnused removes the predecessors of what was just prepared, half a gigabyte each,
// but for those that a lab runs on. What fails is left to the next time.
func removeUnused(cfg Config, keep string) {
	old, _ := filepath.Glob(filepath.Join(cfg.Cache, fmt.Sprintf("%s-%s-*", cfg.Kind, cfg.Suite)))
	for _, dir := range old {
		gone := strings.HasSuffix(dir, ".gone")
		if filepath.Base(dir) == keep || filepath.Ext(dir) != "" && !gone {
			continue
		}
		unlock, free, err := dirlock.TryLock(dir)
		if err != nil || !free {
			continue
		}
		// Half of one must not pass for a whole.
		if gone || os.Rename(dir, dir+".gone") == nil {
			_ = os.RemoveAll(strings.TrimSuffix(dir, ".gone") + ".gone")
		}
		unlock()
	}
}

// ownerCommands returns commands for debugfs(8) that give the files of an archive the
// owners it says. To a caller who isn't root all unpacked files belong, and so they are
// root's in the disk; the few others are set this way.
func ownerCommands(ctx context.Context, name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	z, err := zstd.NewReader(reader{ctx, f})
	if err != nil {
		return "", err
	}
	defer z.Close()
	var commands strings.Builder
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err == io.EOF {
			return commands.String(), nil
		} else if err != nil {
			return "", fmt.Errorf("reading %s: %w", name, err)
		}
		if h.Typeflag == tar.TypeLink || h.Uid == 0 && h.Gid == 0 {
			continue
		}
		quoted := `"/` + strings.ReplaceAll(path.Clean(h.Name), `"`, `""`) + `"`
		fmt.Fprintf(&commands, "set_inode_field %s uid %d\nset_inode_field %s gid %d\n", quoted, h.Uid, quoted, h.Gid)
	}
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}
