package spec

import (
	"encoding"
	"fmt"
	"testing"
	"time"
)

func TestText(t *testing.T) {
	tests := []struct {
		in   string
		into encoding.TextUnmarshaler
		want string // by String
		n    int64
	}{
		{"", new(Size), "", 0},
		{"1", new(Size), "1", 1},
		{"1023", new(Size), "1023", 1023},
		{"1024", new(Size), "1K", 1 << 10},
		{"1025K", new(Size), "1025K", 1025 << 10},
		{"268435456", new(Size), "256M", 256 << 20},
		{"1024M", new(Size), "1G", 1 << 30},
		{"2048T", new(Size), "2048T", 2048 << 40},
		{"8388607T", new(Size), "8388607T", 8388607 << 40},
		{"", new(Percent), "", 0},
		{"25%", new(Percent), "25%", 25},
		{"200%", new(Percent), "200%", 200},
		{"30s", new(Duration), "30s", int64(30 * time.Second)},
		{"90s", new(Duration), "1m30s", int64(90 * time.Second)},
		{"10m", new(Duration), "10m", int64(10 * time.Minute)},
		{"2h", new(Duration), "2h", int64(2 * time.Hour)},
		{"20h20m20s", new(Duration), "20h20m20s", int64(20*time.Hour + 20*time.Minute + 20*time.Second)},
		{"1h5s", new(Duration), "1h0m5s", int64(time.Hour + 5*time.Second)},
		{"1000ms", new(Duration), "1s", int64(time.Second)},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%T %s", test.into, test.in), func(t *testing.T) {
			if err := test.into.UnmarshalText([]byte(test.in)); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(test.into); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			var n int64
			switch v := test.into.(type) {
			case *Size:
				n = int64(*v)
			case *Percent:
				n = int64(*v)
			case *Duration:
				n = int64(*v)
			}
			if n != test.n {
				t.Errorf("got %d, want %d", n, test.n)
			}
		})
	}
}
