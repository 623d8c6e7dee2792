package status

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"ephemeral-builder/image/command"
)

// Print writes a table, or JSON.
func Print(f *os.File, builders []Builder, asJSON bool) error {
	if !asJSON {
		_, err := f.WriteString(Text(builders, time.Now(), Width(f)))
		return err
	}
	encoder := json.NewEncoder(f)
	encoder.SetIndent("", "  ")
	return encoder.Encode(builders)
}

// Text is what people look at, for a terminal of a width; as wide as it gets if that is zero.
func Text(builders []Builder, now time.Time, width int) string {
	var b strings.Builder
	if len(builders) == 0 {
		fmt.Fprintf(&b, "no builder is installed on this host: install one with: %s\n", command.Self("install"))
	}
	for i, one := range builders {
		if i > 0 {
			b.WriteString("\n")
		}
		one.text(&b, now, width)
	}
	return b.String()
}

func (b Builder) text(out *strings.Builder, now time.Time, width int) {
	if b.Active {
		fmt.Fprintf(out, "%s listens on %s, with version %s\n", b.Name, b.Listen, b.Version)
	} else {
		fmt.Fprintf(out, "%s, version %s, does not listen: look at: systemctl status %[1]s.socket\n", b.Name, b.Version)
	}
	if b.Drained {
		fmt.Fprintf(out, "drained: balancers send it nothing new, until: %s -name=%s -end\n", command.Self("drain"), b.Name)
	}
	fmt.Fprintf(out, "%d of %d slots serve", len(b.Containers), b.Slots)
	if b.Waiting > 0 {
		fmt.Fprintf(out, ", %d wait for a connection", b.Waiting)
	}
	fmt.Fprintf(out, ", %d are free", b.Free)
	if b.Waiting == 0 {
		fmt.Fprintf(out, "; %d connections accepted, %d refused since the socket's start", b.Accepted, b.Refused)
	}
	out.WriteString("\nimages:")
	for i, image := range b.Images {
		if i > 0 {
			out.WriteString(",")
		}
		fmt.Fprintf(out, " %s", image.Version)
		if image.Current {
			out.WriteString(" (current)")
		}
		if image.Refused {
			out.WriteString(" (does not serve)")
		}
		if image.InUse > 0 {
			fmt.Fprintf(out, " in use by %d", image.InUse)
		}
	}
	out.WriteString("\n")
	if len(b.Containers) == 0 {
		return
	}
	out.WriteString("\n")
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SLOT\tFOR\tCLIENT\tVERSION\tCPU\tMEMORY\tPEAK\tOF\tTASKS\tOF\tCOMMAND")
	for _, c := range b.Containers {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Slot, brief(now.Sub(c.Since)), c.Client, c.Version,
			brief(c.CPU), size(c.Memory), size(c.Peak), size(c.MemoryMax), known(c.Tasks), known(c.TasksMax), Printable(c.Command))
	}
	w.Flush()
	for line := range strings.Lines(table.String()) {
		out.WriteString(cut(strings.TrimSuffix(line, "\n"), width))
		out.WriteString("\n")
	}
}

// brief is a time with one unit, or two.
func brief(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		return d.Round(time.Second).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}

// size is in the units that systemd writes sizes in. What is not counted here is a dash.
func size(bytes uint64) string {
	switch {
	case bytes == 0:
		return "-"
	case bytes < 1<<20:
		return fmt.Sprintf("%dK", bytes>>10)
	case bytes < 10<<30:
		return fmt.Sprintf("%dM", bytes>>20)
	}
	return fmt.Sprintf("%.1fG", float64(bytes)/(1<<30))
}

func known(n uint64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// Printable is a job's own text without what could steer a terminal.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// cut is the beginning of a line that fits.
func cut(line string, width int) string {
	runes := []rune(line)
	if width < 1 || len(runes) <= width {
		return line
	}
	return string(runes[:width-1]) + "…"
}
