package progress

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []Event
		start := time.Now()
		r := Watch(func(e Event) { got = append(got, e) })
		s := r.Stage("bootstrap")
		time.Sleep(2 * time.Second)
		s.Detail("unpacking %s", "gcc-14")
		time.Sleep(3 * time.Second)
		s.Done("")
		s.Fail()
		r.Close()
		r.Stage("after")
		want := []Event{
			{"bootstrap", "", false, start},
			{"bootstrap", "unpacking gcc-14", false, start.Add(2 * time.Second)},
			{"bootstrap", "", true, start.Add(5 * time.Second)},
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}
