package units

import (
	"strings"
	"testing"
)

func TestBefore(t *testing.T) {
	for _, test := range []struct{ versions, current, want string }{
		{"1 2 3", "3", "2"},
		{"9 10 11", "10", "9"},
		{"1.0~rc1 1.0", "1.0", "1.0~rc1"},
		{"20260101T000000Z 20260102T000000Z", "20260102T000000Z", "20260101T000000Z"},
		{"2 3", "2", ""},
		{"2", "2", ""},
		{"1 x:y 2", "2", "1"}, // of somebody who copied a tree
	} {
		got, err := before(strings.Fields(test.versions), test.current)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("before %s of %s is %q, %v, want %q", test.current, test.versions, got, err, test.want)
		}
	}
}
