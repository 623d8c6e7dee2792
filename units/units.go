// Package units turns a spec into systemd units, and installs an image and its units on
// the host it runs on. The units are the files in the folder files/, with the spec's
// values filled in.
package units

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"ephemeral-builder/image"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/spec"
)

//go:embed files
var files embed.FS

// Where everything is on a host.
const (
	ContainerDir = "/var/lib/container"               // image trees, and the symlink of the one in use
	UnitDir      = "/etc/systemd/system"              // systemd.unit(5): the administrator's units
	ConfigDir    = "/etc/ephemeral-builder"           // keys, in a folder for each NAME
	LibDir       = "/usr/local/lib/ephemeral-builder" // what units start, likewise
	RunDir       = "/run/ephemeral-builder"           // slots, likewise

	DownloadDir = "/var/cache/ephemeral-builder/downloads" // what an unfinished install has downloaded, likewise
)

// File is one unit file.
type File struct {
	Name string // NAME.socket
	Text []byte
}

// Render makes the units of a spec, with limits that [Host.Limits] has completed and the
// first of its slots: socket, service template, slice and slots.
func Render(s spec.Spec, l spec.Limits, firstSlot int) ([]File, error) {
	values := struct {
		Name, Listen, Tree, Keys, Entrypoint string
		Slot, Run                            string
		FirstSlot, Concurrency               int
		spec.Limits
		PoolMemoryMax spec.Size
		PoolTasksMax  int
	}{
		Name: s.Name, Listen: s.SSH.Listen.String(),
		Tree: filepath.Join(ContainerDir, s.Name), Keys: filepath.Join(ConfigDir, s.Name),
		Entrypoint: filepath.Join(image.LibDir, "entrypoint"),
		Slot:       filepath.Join(LibDir, s.Name, "slot"), Run: filepath.Join(RunDir, s.Name),
		FirstSlot: firstSlot, Concurrency: s.Concurrency,
		Limits:        l,
		PoolMemoryMax: l.MemoryMax * spec.Size(s.Concurrency),
		PoolTasksMax:  l.TasksMax * s.Concurrency,
	}
	parsed, err := template.ParseFS(files, "files/*")
	if err != nil {
		return nil, err
	}
	var rendered []File
	for _, unit := range []struct{ name, template string }{
		{s.Name + ".slice", "slice"},
		{slotsUnit(s.Name), "slots"},
		{s.Name + "@.service", "service"},
		{s.Name + ".socket", "socket"},
	} {
		var text bytes.Buffer
		if err := parsed.ExecuteTemplate(&text, unit.template, values); err != nil {
			return nil, err
		}
		rendered = append(rendered, File{unit.name, text.Bytes()})
	}
	return rendered, nil
}

// Verify has systemd itself read the units, with systemd-analyze(1). Whatever it says of
// them is an error: its exit status alone lets unknown keys pass.
func Verify(ctx context.Context, units []File) error {
	dir, err := os.MkdirTemp("", "units-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	args := []string{"systemd-analyze", "verify", "--man=no"}
	for _, unit := range units {
		path := filepath.Join(dir, unit.Name)
		if err := os.WriteFile(path, unit.Text, 0o644); err != nil {
			return err
		}
		args = append(args, path)
	}
	var said bytes.Buffer
	err = command.Run(ctx, command.Cmd{Args: args, Stderr: &said})
	var ours []string
	for line := range strings.Lines(said.String()) {
		if strings.HasPrefix(line, dir) {
			ours = append(ours, strings.TrimSpace(strings.TrimPrefix(line, dir+"/")))
		}
	}
	if len(ours) > 0 {
		return fmt.Errorf("systemd does not accept the units: %s", strings.Join(ours, "; "))
	}
	var exit *command.Error
	if errors.As(err, &exit) && said.Len() > 0 {
		return fmt.Errorf("systemd does not accept the units: %w", err)
	}
	return err
}
