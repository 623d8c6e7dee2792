package units

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/coreos/go-systemd/v22/util"
	godbus "github.com/godbus/dbus/v5"

	"ephemeral-builder/image/command"
)

// systemd is the host's service manager, over D-Bus.
type systemd struct{ conn *dbus.Conn }

// booted fails on a machine that is run by something else.
func booted() error {
	if !util.IsRunningSystemd() {
		return fmt.Errorf("systemd is not this machine's PID 1: run it on the host itself, or try a lab with: %s", command.Self("lab:up"))
	}
	return nil
}

// connect reaches the service manager over the system bus, which nspawn needs as well.
func connect(ctx context.Context) (systemd, error) {
	if err := booted(); err != nil {
		return systemd{}, err
	}
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return systemd{}, fmt.Errorf("no connection to systemd: install dbus: %w", err)
	}
	return systemd{conn}, nil
}

func (m systemd) close() { m.conn.Close() }

// active says whether a unit is running or listening.
func (m systemd) active(ctx context.Context, unit string) (bool, error) {
	property, err := m.conn.GetUnitPropertyContext(ctx, unit, "ActiveState")
	if err != nil {
		return false, fmt.Errorf("asking systemd about %s: %w", unit, err)
	}
	state, _ := property.Value.Value().(string)
	return state == "active", nil
}

// needsReload says whether a unit's files are newer than what systemd has read of them.
func (m systemd) needsReload(ctx context.Context, unit string) (bool, error) {
	property, err := m.conn.GetUnitPropertyContext(ctx, unit, "NeedDaemonReload")
	if err != nil {
		return false, fmt.Errorf("asking systemd about %s: %w", unit, err)
	}
	stale, _ := property.Value.Value().(bool)
	return stale, nil
}

func (m systemd) start(ctx context.Context, unit string) error {
	return m.job(ctx, "start", unit, m.conn.StartUnitContext)
}

func (m systemd) restart(ctx context.Context, unit string) error {
	return m.job(ctx, "restart", unit, m.conn.RestartUnitContext)
}

// reloadActive has a unit that is active read its configuration anew.
func (m systemd) reloadActive(ctx context.Context, unit string) error {
	if active, err := m.active(ctx, unit); !active || err != nil {
		return err
	}
	return m.job(ctx, "reload", unit, m.conn.ReloadUnitContext)
}

// reloadNetworkd has systemd-networkd, where it runs, read its files anew. That of Debian 12
// can't be told to by its unit.
func (m systemd) reloadNetworkd(ctx context.Context) error {
	if active, err := m.active(ctx, "systemd-networkd.service"); !active || err != nil {
		return err
	}
	return command.Run(ctx, command.Cmd{Args: []string{"networkctl", "reload"}})
}

// enable has a unit start with the host, and starts it, if systemd knows it.
func (m systemd) enable(ctx context.Context, unit string) error {
	if err := m.conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("systemd does not reload its units: %w", err)
	}
	if _, _, err := m.conn.EnableUnitFilesContext(ctx, []string{unit}, false, false); err != nil {
		return fmt.Errorf("systemd does not enable %s: %w", unit, err)
	}
	return m.start(ctx, unit)
}

// disable stops a unit, which then does not start with the host either. One that is not there is no
// error.
func (m systemd) disable(ctx context.Context, unit string) error {
	var refused godbus.Error
	if _, err := m.conn.DisableUnitFilesContext(ctx, []string{unit}, false); err != nil && !(errors.As(err, &refused) && refused.Name == "org.freedesktop.systemd1.NoSuchUnit") {
		return fmt.Errorf("systemd does not disable %s: %w", unit, err)
	}
	return m.stop(ctx, unit)
}

// stop ends a unit; one that is gone already is no error.
func (m systemd) stop(ctx context.Context, unit string) error {
	return m.job(ctx, "stop", unit, m.conn.StopUnitContext)
}

// job queues a job and waits for its end.
func (m systemd) job(ctx context.Context, verb, unit string, queue func(context.Context, string, string, chan<- string) (int, error)) error {
	done := make(chan string, 1)
	if _, err := queue(ctx, unit, "replace", done); err != nil {
		var refused godbus.Error
		if verb == "stop" && errors.As(err, &refused) && refused.Name == "org.freedesktop.systemd1.NoSuchUnit" {
			return nil
		}
		return fmt.Errorf("systemd does not %s %s: %w", verb, unit, err)
	}
	select {
	case result := <-done:
		if result == "done" {
			return nil
		}
		err := fmt.Errorf("systemd could not %s %s: %s", verb, unit, result)
		units := []string{unit}
		if result == "dependency" {
			units = append(units, slotsUnit(strings.TrimSuffix(unit, ".socket"))) // which alone can fail
		}
		if log := journal(ctx, units...); log != "" {
			err = fmt.Errorf("%w\n%s", err, log)
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// journal is the last that units had to say, indented, or nothing.
func journal(ctx context.Context, units ...string) string {
	args := []string{"journalctl", "--lines=8", "--no-pager", "--output=cat"}
	for _, unit := range units {
		args = append(args, "--unit="+unit)
	}
	out, err := command.Output(ctx, command.Cmd{Args: args})
	if err != nil {
		return ""
	}
	return "    " + strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "\n    ")
}

// instances are the names of the loaded instances of a service template: "NAME@*.service".
func (m systemd) instances(ctx context.Context, pattern string) ([]string, error) {
	list, err := m.conn.ListUnitsByPatternsContext(ctx, nil, []string{pattern})
	if err != nil {
		return nil, fmt.Errorf("asking systemd for %s: %w", pattern, err)
	}
	var names []string
	for _, unit := range list {
		names = append(names, unit.Name)
	}
	return names, nil
}
