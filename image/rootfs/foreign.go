package rootfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/space"
	"ephemeral-builder/scripts"
)

// emulator runs programs of one architecture on another.
type emulator struct {
	program string
	machine string // e_machine of elf(5), for binfmt_misc
}

// emulators are those of Debian's qemu-user-static, by Debian's name of the architecture.
var emulators = map[string]emulator{
	"amd64": {"qemu-x86_64-static", `\x3e\x00`},
	"arm64": {"qemu-aarch64-static", `\xb7\x00`},
}

// Foreign makes the programs of an architecture, by Debian's name, run in a space. For
// the machine's own there is nothing to do. What the machine itself has registered with
// binfmt_misc serves where the kernel is too old for a registration of the space's own.
func Foreign(ctx context.Context, s *space.Space, arch string) error {
	if arch == runtime.GOARCH {
		return nil
	}
	e := emulators[arch]
	script, err := scripts.FS.ReadFile("foreign")
	if err != nil {
		return err
	}
	err = s.Run(ctx, command.Cmd{Args: []string{"/bin/sh", "-c", string(script), "foreign", filepath.Join("/usr/bin", e.program), e.machine}})
	if err == nil || ctx.Err() != nil {
		return err
	}
	name := strings.TrimSuffix(e.program, "-static")
	if registered, readErr := os.ReadFile("/proc/sys/fs/binfmt_misc/" + name); readErr == nil &&
		strings.HasPrefix(string(registered), "enabled") && strings.Contains(string(registered), "F") {
		return nil
	}
	return fmt.Errorf("this machine can't run programs of %s: its kernel has no binfmt_misc for namespaces (Linux 6.7 has), and none is registered: run: sudo apt-get install qemu-user-static binfmt-support: %w", arch, asked(err, []string{"mount", "binfmt_misc"}))
}
