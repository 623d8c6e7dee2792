package status

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Width is that of the terminal that a file is, or zero for another file, or if it has none.
func Width(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// interval is how often Watch looks.
const interval = 2 * time.Second

// Watch shows the builders on a terminal, again and again in the same place, until ctx ends.
func Watch(ctx context.Context, f *os.File, name string) error {
	if !isTerminal(f) {
		return errors.New("-watch needs a terminal: leave it out, or use -json")
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		builders, err := Read(ctx, name)
		if ctx.Err() != nil {
			return nil // which is how it ends
		} else if err != nil {
			return err
		}
		now := time.Now()
		// ECMA-48: to the upper left corner, and erase what is below.
		fmt.Fprintf(f, "\x1b[H\x1b[J%s, every %v, end with ctrl-c\n\n%s", now.Format(time.TimeOnly), interval, Text(builders, now, Width(f)))
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}
