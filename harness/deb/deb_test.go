package deb

import (
	"reflect"
	"testing"
)

func TestParse(t *testing.T) {
	const help = `Drain has the balancer send a host nothing new, until -end.

Usage:

	mage fleet:drain <host> [<flags>]

Flags:

	-fleet=<string>  file that describes it (default: fleet.toml)
	-end=<bool>      it gets what comes, again

`
	want := Target{
		"fleet:drain", "Drain has the balancer send a host nothing new, until -end.", []string{"host"},
		[]Flag{{"fleet", "string", "file that describes it (default: fleet.toml)"}, {"end", "bool", "it gets what comes, again"}},
	}
	if got := parse("fleet:drain", help); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
