package deb

import (
	"reflect"
	"testing"
)

func TestParse(t *testing.T) {
	const help = `Shows the builders of this host, and what runs.

Usage:

	mage status [<flags>]

Flags:

	-name=<string>  of the builder (default: all)
	-json=<bool>    for programs

`
	want := Target{"status", "Shows the builders of this host, and what runs.", []Flag{{"name", "string", "of the builder (default: all)"}, {"json", "bool", "for programs"}}}
	if got := parse("status", help); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
