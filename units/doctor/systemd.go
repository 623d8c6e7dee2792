package doctor

import (
	"context"
	"fmt"
	"regexp"
	"strconv"

	debversion "github.com/knqyf263/go-deb-version"

	"ephemeral-builder/image/command"
)

// Versions of systemd that all was tried with: those of Debian 12 and 13.
const minSystemd, maxSystemd = 252, 257

// fault is one of systemd's that a builder's units meet, in versions from one on and before another:
// as advisories and its issues have them, seen on no host of ours.
type fault struct {
	from, before string
	what, why    string
}

var faults = []fault{
	{"258", "258.5", "any user of this host can end PID 1", "units with Delegate=yes, as containers have, are enough for it (CVE-2026-40223)"},
	{"259", "259.2", "any user of this host can end PID 1", "units with Delegate=yes, as containers have, are enough for it (CVE-2026-40223)"},
	{"258", "261", "units with Delegate=yes may fail to start again", "with start = \"warm\" a slot may serve late (systemd/systemd#41278)"},
}

// has tells whether a version has the fault.
func (f fault) has(v debversion.Version) (bool, error) {
	from, err := debversion.NewVersion(f.from)
	if err != nil {
		return false, err
	}
	before, err := debversion.NewVersion(f.before)
	return !v.LessThan(from) && v.LessThan(before), err
}

// Of "systemd 257 (257.13-1~deb13u1)", and of what stands there where no distribution has said more.
var systemdLine = regexp.MustCompile(`^systemd (\d+) \(([^)]+)\)`)

func systemdVersion(ctx context.Context, _ subject) []Finding {
	out, err := command.Output(ctx, command.Cmd{Args: []string{"systemctl", "--version"}})
	if err != nil {
		return []Finding{fail("there is no systemd", "its units and nspawn are all that runs", "use a host with systemd as PID 1")}
	}
	return judgeSystemd(string(out))
}

// judgeSystemd takes what systemctl --version says.
func judgeSystemd(said string) []Finding {
	match := systemdLine.FindStringSubmatch(said)
	if match == nil {
		return []Finding{unknown(fmt.Errorf("systemctl --version says %q", said))}
	}
	major, err := strconv.Atoi(match[1])
	if err != nil {
		return []Finding{unknown(err)}
	}
	full, err := debversion.NewVersion(match[2])
	if err != nil {
		return []Finding{unknown(fmt.Errorf("version %s of systemd: %w", match[2], err))}
	}
	var found []Finding
	for _, f := range faults {
		if has, err := f.has(full); err != nil {
			return []Finding{unknown(err)}
		} else if has {
			found = append(found, warn(fmt.Sprintf("version %s: %s", match[2], f.what), f.why, "upgrade to "+f.before+", or to one for which its changelog says that this is mended"))
		}
	}
	switch {
	case major < minSystemd:
		return []Finding{fail("version "+match[2], fmt.Sprintf("none before %d was tried", minSystemd), "upgrade to Debian 12 or later")}
	case major > maxSystemd && len(found) == 0:
		found = append(found, warn("version "+match[2], fmt.Sprintf("none after %d was tried", maxSystemd), "look at what the check of a connection says"))
	case major < 254:
		found = append(found, ok("version %s, without systemd-sysupdate: images come by install only", match[2]))
	case len(found) == 0:
		found = append(found, ok("version %s", match[2]))
	}
	return found
}
