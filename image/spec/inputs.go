package spec

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
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

// Inputs are what a spec refers to, read and checked. The content of its files folder
// is not kept: [Inputs.WriteFiles] reads it.
type Inputs struct {
	// Keys has one item for each of Spec.Sources: its public keys in binary OpenPGP form,
	// or nil for the Debian archive's own.
	Keys [][]byte

	// Hooks are in the order in which they run.
	Hooks []Hook

	files string // folder, absolute; empty if there is none
}

// Hook is a script that runs in the chroot of the image.
type Hook struct {
	Name    string // as the spec has it, for messages
	Content []byte // begins with "#!"
}

// Inputs reads what s refers to. Paths are relative to the spec's folder and may lead out
// of it with "..", so that specs can share files, but not through symbolic links: then the
// image would depend on what else is on the machine. The error is as in [Load].
func (s Spec) Inputs() (Inputs, error) {
	in, problems := s.inputs()
	if err := join(s.origin.place(problems)); err != nil {
		return Inputs{}, err
	}
	return in, nil
}

func (s Spec) inputs() (in Inputs, found []problem) {
	report := func(key, format string, args ...any) {
		found = append(found, problem{key: key, text: fmt.Sprintf(format, args...)})
	}
	for i, source := range s.Sources {
		var keys []byte
		if source.Key != "" {
			key := fmt.Sprintf("sources[%d].key", i)
			data, err := s.origin.read(source.Key)
			if err == nil {
				keys, err = publicKeys(data)
			}
			if err != nil {
				report(key, "%s %q: %v", key, source.Key, err)
			}
		}
		in.Keys = append(in.Keys, keys)
	}
	for i, name := range s.Hooks {
		data, err := s.origin.read(name)
		if err == nil {
			err = checkHook(data)
		}
		if err != nil {
			report(fmt.Sprintf("hooks[%d]", i), "hooks: %q: %v", name, err)
		}
		in.Hooks = append(in.Hooks, Hook{name, data})
	}
	if s.Files != "" {
		var err error
		if in.files, err = s.origin.folder(s.Files); err != nil {
			report("files", "files %q: %v", s.Files, err)
			return in, found
		}
		unfit, err := walk(in.files, func(*os.Root, entry) error { return nil })
		if err != nil {
			report("files", "files %q: %v", s.Files, err)
		}
		for _, text := range unfit {
			report("files", "files: %s/%s", path.Clean(s.Files), text)
		}
	}
	return in, found
}

// pathProblem says what is wrong with the form of a path to an input, or is "".
func pathProblem(name string) string {
	switch {
	case name == "":
		return "is empty: use the path of a file"
	case path.IsAbs(name):
		return fmt.Sprintf("%q is absolute: use a path relative to the folder of the spec, which can be moved with it", name)
	default:
		return ""
	}
}

// find is where an input lies.
func (o *origin) find(name string) (path string, info fs.FileInfo, err error) {
	if text := pathProblem(name); text != "" {
		return "", nil, errors.New(text)
	}
	if o == nil {
		return "", nil, errors.New("the spec was not read from a file, so its path leads nowhere: load the spec from its file")
	}
	base, err := filepath.EvalSymlinks(o.dir)
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join(base, filepath.FromSlash(name))
	switch real, err := filepath.EvalSymlinks(path); {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil, fmt.Errorf("there is no %s: paths are relative to the folder of the spec", path)
	case err != nil:
		return "", nil, err
	case real != path:
		if relative, err := filepath.Rel(base, real); err == nil {
			real = relative
		}
		return "", nil, fmt.Errorf("a symbolic link leads to it: use %q", filepath.ToSlash(real))
	}
	info, err = os.Lstat(path)
	return path, info, err
}

func (o *origin) read(name string) ([]byte, error) {
	path, info, err := o.find(name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("is no regular file: use the path of one")
	case info.Size() == 0:
		return nil, errors.New("is empty: write something into it, or remove it from the spec")
	}
	return os.ReadFile(path)
}

func (o *origin) folder(name string) (string, error) {
	path, info, err := o.find(name)
	switch {
	case err != nil:
		return "", err
	case !info.IsDir():
		return "", errors.New("is no folder: use one that is laid out like the image's root, with etc/ and so on in it")
	}
	base, err := filepath.EvalSymlinks(o.dir)
	if err != nil {
		return "", err
	}
	if inside, err := filepath.Rel(path, base); err == nil && filepath.IsLocal(inside) {
		return "", errors.New("has the spec itself in it, which would be in the image then: use a folder of its own")
	}
	return path, nil
}

func checkHook(data []byte) error {
	first, _, _ := bytes.Cut(data, []byte("\n"))
	switch {
	case !bytes.HasPrefix(first, []byte("#!")):
		return errors.New("does not say what runs it: begin it with a line such as #!/bin/sh")
	case bytes.HasSuffix(first, []byte("\r")): // seen as: /bin/sh: not found
		return errors.New("has the line ends of Windows, so that the kernel looks for an interpreter whose name ends in a carriage return: save it with those of Unix")
	}
	return nil
}

// WriteFiles writes the files folder to w as an uncompressed tar, an empty one if there is none.
// Nothing in it depends on the checkout: names are sorted in each folder, all belongs to
// root, modes are 0755 for folders and for what its owner may execute and 0644 else, as git
// keeps no more, and each time stamp is epoch. Symbolic links stay what they are. There is
// no entry for the root itself.
//
// What can't go into an image is an error, here and in [Spec.Inputs]: devices, sockets and
// pipes; symbolic links to the outside of the folder; whatever would replace one of
// Debian's own links in the root, such as lib; and what lies where no container would see
// it, such as below tmp.
//
// To lay it over a tree, in its chroot, keep the modes of folders that are there already,
// such as /root, and go through links: GNU tar's --no-overwrite-dir and
// --keep-directory-symlink.
func (in Inputs) WriteFiles(ctx context.Context, w io.Writer, epoch time.Time) error {
	tw := newTarWriter(w, epoch)
	if in.files != "" {
		unfit, err := walk(in.files, func(root *os.Root, e entry) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return tw.add(root, e)
		})
		if err != nil {
			return fmt.Errorf("files: %w", err)
		}
		if len(unfit) > 0 {
			return fmt.Errorf("files: %s", strings.Join(unfit, "\nfiles: "))
		}
	}
	return tw.Close()
}

// Digest is the SHA-256, in lower-case hex, of all that the spec refers to: keys, hooks
// and files, but not their paths, which are in the spec. The same checkout has the same
// one at any place, with any umask, owner and time stamps.
func (in Inputs) Digest(ctx context.Context) (string, error) {
	sum := sha256.New()
	for _, key := range in.Keys {
		fmt.Fprintf(sum, "key %d\n%s", len(key), key)
	}
	for _, hook := range in.Hooks {
		fmt.Fprintf(sum, "hook %d\n%s", len(hook.Content), hook.Content)
	}
	fmt.Fprint(sum, "files\n")
	if err := in.WriteFiles(ctx, sum, time.Unix(0, 0)); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
