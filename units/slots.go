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

// interfaces are the slots' ends on the host, as nftables writes them.
func (r slotRange) interfaces() string {
	var names []string
	for slot := r.first; slot < r.first+r.count; slot++ {
		names = append(names, fmt.Sprintf(`"eb-%d"`, slot))
	}
	return strings.Join(names, ", ")
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
	// Others' that are in use still, though they have fewer by now.
	used, err := filepath.Glob(filepath.Join(RunDir, "*", "used", "*:*"))
	if err != nil {
		return 0, err
	}
	for _, file := range used {
		number, unit, _ := strings.Cut(filepath.Base(file), ":")
		slot, err := strconv.Atoi(number)
		if err == nil && !strings.HasPrefix(unit, s.Name+"@") {
			others = append(others, slotRange{slot, 1})
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
