// Package atomicfile writes files that appear complete or not at all.
package atomicfile

import (
	"io/fs"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Create starts a file that takes the name path, and the mode whatever the umask, with
// CloseAtomicallyReplace; deferred Cleanup removes it if that is not reached. The data is
// on the disk before the name is.
func Create(path string, mode fs.FileMode) (*renameio.PendingFile, error) {
	// In the same folder and not in $TMPDIR, for which the library would look first.
	return renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(mode))
}

// Write writes a whole file, or leaves the one that is there as it is.
func Write(path string, text []byte, mode fs.FileMode) error {
	file, err := Create(path, mode)
	if err != nil {
		return err
	}
	defer file.Cleanup()
	if _, err := file.Write(text); err != nil {
		return err
	}
	return file.CloseAtomicallyReplace()
}
