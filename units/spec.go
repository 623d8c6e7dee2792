package units

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/spec"
)

// installedPath is what a builder was installed with.
func installedPath(name string) string { return filepath.Join(ConfigDir, name, "spec.toml") }

func installedFile(s spec.Spec) (File, error) {
	text, err := toml.Marshal(s)
	return File{installedPath(s.Name), fmt.Appendf(nil, "# %s, as it was installed; the next install overwrites it.\n%s", writtenByUs, text)}, err
}

// InstalledSpec is the spec that the builder of a name was installed with on this host.
func InstalledSpec(name string) (spec.Spec, error) {
	text, err := os.ReadFile(installedPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return spec.Spec{}, fmt.Errorf("nobody knows what %s was installed with on this host: name its -spec, or run first: %s: %w", name, command.Self("install"), err)
	} else if err != nil {
		return spec.Spec{}, err
	}
	return spec.Parse(installedPath(name), text)
}
