package rootfs

import (
	"context"
	"fmt"
	"strings"

	"ephemeral-builder/image/command"
)

// Package is one installed Debian package.
type Package struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"` // Debian's name, or "all"
}

// Packages lists what is installed in a tree, sorted by name and architecture.
func Packages(ctx context.Context, tree string) ([]Package, error) {
	out, err := command.Output(ctx, command.Cmd{
		Args: []string{"chroot", tree, "/usr/bin/dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\n"},
		Env:  []string{"LC_ALL=C.UTF-8"},
	})
	if err != nil {
		return nil, err
	}
	var packages []Package
	for line := range strings.Lines(string(out)) {
		field := strings.Fields(line)
		if len(field) != 3 {
			return nil, fmt.Errorf("dpkg-query printed %q", line)
		}
		packages = append(packages, Package{field[0], field[1], field[2]})
	}
	return packages, nil
}
