package units

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/command"
)

// SetDrained has the agent of a builder tell balancers that this host wants no new connections, also
// after a restart of the host, or again that it does. Those that there are go on.
func SetDrained(name string, drained bool) error {
	if os.Geteuid() != 0 {
		return errors.New("draining needs root: run it with sudo")
	}
	if _, err := os.Stat(filepath.Join(UnitDir, AgentSocket(name))); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s has no agent here, which would tell balancers: set ssh.agent in the spec, and run: %s", name, command.Self("install"))
	} else if err != nil {
		return err
	}
	path := KeysOf(name).Drained
	if drained {
		return atomicfile.Write(path, nil, 0o644)
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
