package image

import (
	"context"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"time"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/spec"
)

// Arch names one architecture in the two ways in use.
type Arch struct {
	Debian  string // "amd64", as dpkg has it
	Systemd string // "x86-64", as systemd's ConditionArchitecture= has it, in file names
}

// HostArch is the architecture this program runs on.
func HostArch() (Arch, error) { return archNamed(runtime.GOARCH) } // Go's names are Debian's

// ArchOf is the architecture of a spec's image.
func ArchOf(s spec.Spec) (Arch, error) {
	if s.Arch == "" {
		return HostArch()
	}
	return archNamed(s.Arch)
}

// ArchNamed is the architecture with systemd's name.
func ArchNamed(systemd string) (Arch, error) {
	if systemd == "x86-64" {
		return Arch{"amd64", "x86-64"}, nil
	}
	return archNamed(systemd)
}

func archNamed(debian string) (Arch, error) {
	switch debian {
	case "amd64":
		return Arch{"amd64", "x86-64"}, nil
	case "arm64":
		return Arch{"arm64", "arm64"}, nil
	}
	return Arch{}, fmt.Errorf("architecture %s is not supported: use amd64 or arm64", debian)
}

// CheckVersion says whether version can stand in a file name between underscores:
// letters, digits and . ~ ^ + -, as in the UAPI group's version format specification.
func CheckVersion(version string) error {
	if !regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.~^+-]*$`).MatchString(version) {
		return fmt.Errorf("version %q can't be part of a file name: use letters, digits and . ~ ^ + -, such as 20260102150405", version)
	}
	return nil
}

// Commit is the current commit of the git checkout around dir: its hash, and its time.
func Commit(ctx context.Context, dir string) (hash string, made time.Time, err error) {
	out, err := command.Output(ctx, command.Cmd{Args: []string{"git", "-C", dir, "log", "-1", "--format=%H %ct"}})
	if err != nil {
		return "", made, fmt.Errorf("%s is in no git checkout with a commit: %w", dir, err)
	}
	hash, seconds, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	made, err = ParseEpoch(seconds)
	return hash, made, err
}
