package units

import (
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	for _, test := range []struct {
		name   string
		mine   slotRange
		others []slotRange
		want   int // -1: an error
	}{
		{"alone", slotRange{0, 4}, nil, 0},
		{"after another", slotRange{0, 4}, []slotRange{{0, 8}}, 8},
		{"stays", slotRange{8, 4}, []slotRange{{0, 2}}, 8},
		{"between two", slotRange{0, 4}, []slotRange{{8, 4}, {0, 4}}, 4},
		{"too large to stay", slotRange{4, 5}, []slotRange{{0, 4}, {8, 4}}, 12},
		{"to the end", slotRange{0, 1000}, []slotRange{{0, maxSlots - 1000}}, maxSlots - 1000},
		{"full", slotRange{0, 1000}, []slotRange{{0, maxSlots - 999}}, -1},
	} {
		got, err := choose(test.mine, test.others)
		if err != nil {
			got = -1
		}
		if got != test.want {
			t.Errorf("%s: got %d, %v, want %d", test.name, got, err, test.want)
		}
	}
}

// What one install has written is what the next one reads.
func TestSlotsAreReadBack(t *testing.T) {
	for _, unit := range render(t, load(t, "../testdata/specs/tutorial.toml")) {
		match := made.FindStringSubmatch(string(unit.Text))
		if !strings.HasSuffix(unit.Name, "-slots.service") {
			if match != nil {
				t.Errorf("%s has slots: %q", unit.Name, match)
			}
			continue
		}
		if match == nil || match[1] != "0" || match[2] != "4" {
			t.Errorf("%s: got %q, want the slots 0 4 of\n%s", unit.Name, match, unit.Text)
		}
	}
}
