package space

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"ephemeral-builder/image/command"
)

// count is how many ids a space has: those of a Debian system, up to nobody's 65534 and
// one more.
const count = 65536

// ids are the ranges that the ids of a space are mapped to: for root its own, for others
// themselves as root and the rest from their subordinate ids.
type ids struct {
	uid, gid       int // of who is root inside, if not root outside
	subUID, subGID int // where the range of subordinate ids starts
}

// idMaps reads what the caller may use from subuid(5) and subgid(5).
func idMaps() (ids, error) {
	if os.Geteuid() == 0 {
		return ids{}, nil
	}
	me, err := user.Current()
	if err != nil {
		return ids{}, fmt.Errorf("building without root: %w", err)
	}
	m := ids{uid: os.Geteuid(), gid: os.Getegid()}
	uids, err := subordinate("/etc/subuid", me)
	if err != nil {
		return m, err
	}
	gids, err := subordinate("/etc/subgid", me)
	m.subUID, m.subGID = uids, gids
	return m, err
}

// subordinate is the start of the first range of a user that is large enough.
func subordinate(path string, me *user.User) (start int, err error) {
	file, err := os.Open(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	if err == nil {
		defer file.Close()
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			field := strings.Split(lines.Text(), ":")
			if len(field) != 3 || field[0] != me.Username && field[0] != me.Uid {
				continue
			}
			start, startErr := strconv.Atoi(field[1])
			size, sizeErr := strconv.Atoi(field[2])
			if startErr == nil && sizeErr == nil && size >= count-1 {
				return start, nil
			}
		}
		if err := lines.Err(); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("building without root needs %d ids for %s in %s: "+
		"run: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %[2]s (with a range that nobody has), or run it with sudo",
		count, me.Username, path)
}

// write maps the ids of the process pid, which has a user namespace of its own.
func (m ids) write(ctx context.Context, pid int) error {
	for _, kind := range []struct {
		file, helper string
		id, sub      int
	}{
		{"uid_map", "newuidmap", m.uid, m.subUID},
		{"gid_map", "newgidmap", m.gid, m.subGID},
	} {
		if m.uid == 0 {
			text := fmt.Sprintf("0 0 %d\n", count)
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, kind.file), []byte(text), 0); err != nil {
				return fmt.Errorf("mapping the ids of the build: has this root less than %d ids itself (/proc/self/%s)? %w", count, kind.file, err)
			}
			continue
		}
		if err := command.Run(ctx, command.Cmd{Args: []string{kind.helper, strconv.Itoa(pid),
			"0", strconv.Itoa(kind.id), "1", "1", strconv.Itoa(kind.sub), strconv.Itoa(count - 1)}}); err != nil {
			return fmt.Errorf("mapping the ids of the build: is the package uidmap installed? %w", err)
		}
	}
	return nil
}
