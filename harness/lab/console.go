package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// console reads a log as it grows.
type console struct {
	file   string
	offset int64
	rest   []byte // of the last line, not yet ended
}

// kernelBanner is the first line of every Linux kernel. Firmware prints before it: that
// there is something on the console proves nothing.
const kernelBanner = "Linux version"

// troubles end a boot, so that there is no use in waiting any longer.
var troubles = []string{
	"Kernel panic",
	"Oops:",
	"Dropping to a shell!",      // the initrd, which did not find the disk
	"You are in emergency mode", // systemd
	"Freezing execution",        // systemd
}

// lines returns what was added since the last call, without the line that has not ended.
func (c *console) lines() ([]string, error) {
	f, err := os.Open(c.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(c.offset, io.SeekStart); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	c.offset += int64(len(data))
	data = append(c.rest, data...)
	end := bytes.LastIndexByte(data, '\n') + 1
	c.rest = bytes.Clone(data[end:])
	return strings.Split(string(data[:end]), "\n"), nil
}

// trouble returns an error for the first of lines that says that the boot has failed.
func trouble(lines []string) error {
	for _, line := range lines {
		for _, sign := range troubles {
			if strings.Contains(line, sign) {
				return fmt.Errorf("the console says %q", strings.TrimSpace(line))
			}
		}
	}
	return nil
}

// consoleTail returns the end of the console, to be appended to an error.
func (l *Lab) consoleTail() string {
	const most = 25 // lines
	data, err := os.ReadFile(l.path(ConsoleLog))
	text := strings.TrimSpace(strings.ReplaceAll(string(data), "\r", ""))
	if err != nil || text == "" {
		return ""
	}
	lines := strings.Split(text, "\n")
	return "\nthe console's end:\n    " + strings.Join(lines[max(0, len(lines)-most):], "\n    ")
}
