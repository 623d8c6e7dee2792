package units

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"ephemeral-builder/image/spec"
)

// maxSlots is how many slots a host has: script slot has a range of user ids for each.
const maxSlots = 12288

// slotsUnit is the name of the unit that makes a builder's slots.
func slotsUnit(name string) string { return name + "-slots.service" }

// slotRange are the slots of one builder: no two have one in common, as the same user ids
// would be those of two containers.
type slotRange struct{ first, count int }

func (r slotRange) overlaps(o slotRange) bool {
	return r.first < o.first+o.count && o.first < r.first+r.count
}

// network is how nftables writes the slots' interfaces on the host and their addresses,
// which script slot gives them.
func (r slotRange) network() (interfaces, addresses, addresses6 string) {
	var names []string
	for slot := r.first; slot < r.first+r.count; slot++ {
		names = append(names, fmt.Sprintf(`"eb-%d"`, slot))
	}
	last := r.first + r.count - 1
	address := func(slot int) string { return fmt.Sprintf("198.18.%d.%d", 1+slot/256, slot%256) }
	address6 := func(slot int) string { return fmt.Sprintf("fd65:6275:696c:6465::1:%x", slot) }
	return strings.Join(names, ", "), address(r.first) + "-" + address(last), address6(r.first) + "-" + address6(last)
}

// made is how the unit file tells its slots.
var made = regexp.MustCompile(`(?m)^ExecStart=.* make \S+(?: [a-z]+)? ([0-9]+) ([0-9]+)$`)

// firstSlot chooses the slots of a builder among those that no other builder on this host
// has: those that it has already, or else the first that are free.
func firstSlot(s spec.Spec) (int, error) {
	files, err := filepath.Glob(filepath.Join(UnitDir, slotsUnit("*")))
	if err != nil {
		return 0, err
	}
	mine := slotRange{count: s.Concurrency}
	var others []slotRange
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // uninstalled meanwhile
		} else if err != nil {
			return 0, err
		}
		match := made.FindSubmatch(text)
		if match == nil {
			continue // of somebody else
		}
		first, _ := strconv.Atoi(string(match[1]))
		count, _ := strconv.Atoi(string(match[2]))
		if filepath.Base(file) == slotsUnit(s.Name) {
			mine.first = first
		} else {
			others = append(others, slotRange{first, count})
		}
	}
	return choose(mine, others)
}

// choose returns the first slot of a range as long as mine: that of mine, if it does not
// overlap others, or else the lowest.
func choose(mine slotRange, others []slotRange) (int, error) {
	candidates := []int{mine.first, 0}
	for _, o := range others {
		candidates = append(candidates, o.first+o.count)
	}
	slices.Sort(candidates[1:])
	for _, first := range candidates {
		candidate := slotRange{first, mine.count}
		if first+mine.count <= maxSlots && !slices.ContainsFunc(others, candidate.overlaps) {
			return first, nil
		}
	}
	return 0, fmt.Errorf("no %d slots in a row are free on this host: lower concurrency in the spec, or that of another builder", mine.count)
}
