// Package sums keeps the SHA256SUMS file of a directory of published files.
//
// Its lines are those of sha256sum(1), and of what systemd's importd and sysupdate
// accept in all versions: 64 hex digits, then two spaces or " *", then the bare name of
// a file in the same directory. A single space is refused here as it is by systemd 257
// and older ("has been tampered with"). Files are listed for as long as they exist, as
// sysupdate only sees the versions that are listed.
package sums

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/dirlock"
)

// Name is the file's name in its directory.
const Name = "SHA256SUMS"

// maxSize is the largest SHA256SUMS that importd downloads, in bytes.
const maxSize = 1 << 20

// What [Read] and [Verify] wrap in their errors.
var (
	ErrNoSums    = errors.New("no " + Name)
	ErrNotListed = errors.New("not listed in " + Name)
	ErrMissing   = errors.New("file is missing")
	ErrMismatch  = errors.New("sha256 differs from " + Name)
)

// Read returns the SHA-256 of each file that is listed in dir's SHA256SUMS, in 64
// lower-case hex digits. The error wraps [ErrNoSums] if there is no such file.
func Read(dir string) (map[string]string, error) {
	path := filepath.Join(dir, Name)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w: publish into it, or fetch the file from where the others came from", dir, ErrNoSums)
	}
	if err != nil {
		return nil, err
	}
	sums := map[string]string{}
	number := 0
	for line := range bytes.Lines(data) {
		number++
		name, sum, err := parse(string(line))
		if err == nil && sums[name] != "" {
			err = fmt.Errorf("%q is listed twice", name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w: correct the line or remove it", path, number, err)
		}
		sums[name] = sum
	}
	return sums, nil
}

func parse(line string) (name, sum string, err error) {
	line, complete := strings.CutSuffix(line, "\n")
	if !complete {
		return "", "", errors.New("line without an end") // importd would not find it
	}
	const digits = 2 * sha256.Size
	if len(line) < digits+2 || line[digits:digits+2] != "  " && line[digits:digits+2] != " *" {
		return "", "", fmt.Errorf(`got %q, want "<64 hex digits>  <name>"`, line)
	}
	raw, err := hex.DecodeString(line[:digits])
	if err != nil {
		return "", "", err
	}
	name = line[digits+2:]
	return name, hex.EncodeToString(raw), checkName(name)
}

// checkName refuses what cannot be in the file: other directories, the file itself, and
// what sha256sum would escape.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || name == Name || strings.ContainsAny(name, "/\\\n\r\x00") {
		return fmt.Errorf("%q is not the bare name of a file: give a name in the same directory", name)
	}
	return nil
}

// Verify compares the file called name in dir with its line in dir's SHA256SUMS. The error
// wraps [ErrNoSums], [ErrNotListed], [ErrMissing] or [ErrMismatch], or is ctx's. Whether
// SHA256SUMS itself is to be trusted is for its signature to tell.
func Verify(ctx context.Context, dir, name string) error {
	sums, err := Read(dir)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	want, ok := sums[name]
	if !ok {
		return fmt.Errorf("%s: %w: check the name, or fetch the current %s", path, ErrNotListed, Name)
	}
	got, err := hash(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w: fetch it again", path, ErrMissing)
	}
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%s: %w (got %s, want %s): fetch both again", path, ErrMismatch, got, want)
	}
	return nil
}

// Update hashes the named files in dir anew and writes their lines to dir's SHA256SUMS.
// Other lines stay if their files still exist; with no names, that is all it does. The file is
// replaced in one step and synced to the disk. Several processes may update the same
// directory: each waits for its turn, which ctx bounds. On an error nothing has changed.
//
// A signature beside the file (SHA256SUMS.gpg) has to be made anew afterwards.
func Update(ctx context.Context, dir string, names ...string) error {
	for _, name := range names {
		if err := checkName(name); err != nil {
			return err
		}
	}
	unlock, err := dirlock.Lock(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()

	sums, err := Read(dir)
	if errors.Is(err, ErrNoSums) {
		sums, err = map[string]string{}, nil
	}
	if err != nil {
		return err
	}
	for name := range sums {
		_, err := os.Stat(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			delete(sums, name)
		} else if err != nil {
			return err
		}
	}
	for _, name := range names {
		if sums[name], err = hash(ctx, filepath.Join(dir, name)); err != nil {
			return err
		}
	}

	var text bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		fmt.Fprintf(&text, "%s  %s\n", sums[name], name)
	}
	if text.Len() > maxSize {
		return fmt.Errorf("%s: %s would exceed the 1 MiB that systemd reads: remove old versions", dir, Name)
	}
	return atomicfile.Write(filepath.Join(dir, Name), text.Bytes(), 0o644)
}

// hash returns the SHA-256 of the file at path in lower-case hex digits.
func hash(ctx context.Context, path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would wait for a writer
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(err, fmt.Errorf("%s is not a regular file: remove it, or give another name", path))
	}
	h := sha256.New()
	if _, err := io.Copy(h, reader{ctx, f}); err != nil {
		return "", fmt.Errorf("hash %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
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
