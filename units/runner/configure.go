package runner

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"ephemeral-builder/image/atomicfile"
)

// Configure merges a section into the config.toml at path, or makes the file. The owner and the
// mode stay, and nobody ever sees half of it; see [Merge] for the rest. check may refuse what the
// file would say.
func Configure(path string, s Section, check func(Config) error) (changes []string, err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // or the link would become a file
	}
	old, err := os.ReadFile(path)
	mode, uid, gid := fs.FileMode(0o600), 0, 0
	switch info, statErr := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case statErr != nil:
		return nil, statErr
	default:
		mode = info.Mode().Perm()
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			uid, gid = int(stat.Uid), int(stat.Gid)
		}
		if err := private(path, info); err != nil {
			return nil, err
		}
	}
	merged, changes, err := Merge(old, s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	config, err := Read(merged)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := check(config); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(changes) == 0 {
		return nil, nil
	}
	if now, err := os.ReadFile(path); err == nil && !bytes.Equal(now, old) {
		return nil, fmt.Errorf("%s was changed by somebody else at the same time: run the same command again", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	file, err := atomicfile.Create(path, mode)
	if err != nil {
		return nil, err
	}
	defer file.Cleanup()
	if _, err := file.Write(merged); err != nil {
		return nil, err
	}
	if err := file.Chown(uid, gid); err != nil {
		return nil, err
	}
	return changes, file.CloseAtomicallyReplace()
}

// ReadToken reads a token from a file that nobody else can read.
func ReadToken(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if err := private(path, info); err != nil {
		return "", err
	}
	text, err := os.ReadFile(path)
	return strings.TrimSpace(string(text)), err
}

// private fails for a file with secrets that others can read.
func private(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s has secrets, and other users can read it, mode %04o: chmod 600 it, and think of the tokens in it as known", path, mode)
	}
	return nil
}

// IsRegistrationToken tells a token that only registers runners, before GitLab 16, from one that
// a runner has, if it begins as GitLab's later ones do. Of older ones nobody can tell.
func IsRegistrationToken(token string) bool { return strings.HasPrefix(token, "GR1348941") }
