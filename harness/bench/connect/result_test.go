package connect

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ephemeral-builder/harness/bench/plan"
)

// rounds makes n of them, in which the floor takes 50 ms and ours that times ratio, and all
// jitter by up to 4 ms.
func rounds(n int, ratio float64) Series {
	s := Series{Clients: 1}
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range n {
		jitter := time.Duration(i%5) * time.Millisecond
		floor := 50*time.Millisecond + jitter
		ours := time.Duration(float64(floor) * ratio)
		for _, x := range []plan.Sample{{Contender: Floor, Done: floor}, {Contender: Ours, Done: ours, Freed: 40 * time.Millisecond}, {Contender: Chroot, Done: 2 * floor}} {
			x.Round, x.Start = i, start
			x.Banner, x.Kex, x.Auth = x.Done/2, x.Done*3/5, x.Done*9/10
			s.Samples = append(s.Samples, x)
		}
	}
	return s
}

func result(ratio float64) *Result {
	return &Result{
		Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Lab: "container lab with trixie", Systemd: "systemd 257", OpenSSH: "openssh-server 10",
		Contenders: []Contender{
			{Name: Floor, About: "the floor"}, {Name: Ours, About: "<b>ours</b>"}, {Name: Chroot, About: "chroot"},
			{Name: "docker", About: "docker", Skipped: "docker is not installed"},
		},
		Series: []Series{rounds(20, ratio)},
	}
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-6*math.Abs(want) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func TestRows(t *testing.T) {
	r := result(1.2)
	r.Series[0].Samples = append(r.Series[0].Samples, plan.Sample{Contender: Ours, Round: 3, Error: "refused"}, plan.Sample{Contender: Ours, Round: 99, Error: "other"})
	rows := r.rows(r.Series[0])
	ours := rows[1]
	near(t, "ratio to the floor", ours.ToFloor.Median, 1.2)
	near(t, "its lower bound", ours.ToFloor.Low, 1.2)
	near(t, "median", ours.Time.Median, 62.4)
	near(t, "rate to chroot", ours.ToChroot.Median, 2/1.2)
	near(t, "freed", ours.Freed.Median, 40)
	near(t, "rate of the floor", rows[0].Rate.Median, 1000.0/52)
	if !(ours.Time.Low <= ours.Time.Median && ours.Time.Median <= ours.Time.High && ours.Time.High <= ours.P99) {
		t.Errorf("not in order: %+v, p99 %v", ours.Time, ours.P99)
	}
	if ours.Count != 20 || ours.Failed != 2 || ours.Failure != "refused" {
		t.Errorf("%d worked and %d failed, the first by %q: want 20, 2 and refused", ours.Count, ours.Failed, ours.Failure)
	}
	text := r.Text()
	for _, want := range []string{"ephemeral-builder   62.4", "1.20  1.20-1.20", "40.0 ms (40.0-40.0) from the close", "2 of 22 connections failed, the first: refused", "docker: skipped: docker is not installed"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestRates(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := Series{Clients: 2, Samples: []plan.Sample{
		{Contender: Ours, Client: 0, Start: start, Done: 100 * time.Millisecond},
		{Contender: Ours, Client: 1, Start: start.Add(50 * time.Millisecond), Done: 150 * time.Millisecond},
		{Contender: Ours, Client: 1, Start: start, Error: "refused"},
	}}
	near(t, "two in 200 ms", s.rates(Ours)[0], 10)
}

func TestProcessor(t *testing.T) {
	s := Series{Samples: []plan.Sample{
		{Contender: Ours, Busy: 60 * time.Millisecond, Idle: 20 * time.Millisecond},
		{Contender: Ours, Busy: 30 * time.Millisecond, Idle: 10 * time.Millisecond},
		{Contender: Floor, Busy: time.Second},
	}}
	each, share := s.processor(Ours)
	near(t, "milliseconds each", each, 45)
	near(t, "share of the cores", share, 75)
	if each, share := s.processor("docker"); each != 0 || share != 0 {
		t.Errorf("%v ms and %v %% for nothing measured", each, share)
	}
}

func TestQuantile(t *testing.T) {
	values := []float64{4, 1, 3, 2}
	near(t, "the median of four", median(values), 2.5)
	near(t, "the last", quantile(values, 1), 4)
	near(t, "between two", quantile(values, 0.9), 3.7)
	if values[0] != 4 {
		t.Error("the values were put in order in their place")
	}
}

func TestCompare(t *testing.T) {
	old := result(1.2)
	for _, test := range []struct {
		now  float64
		want string
	}{{1.2, "~"}, {1.5, "+25.00%"}} {
		text := result(test.now).Compare(old)
		if line := lineWith(text, Ours); !strings.Contains(line, test.want) {
			t.Errorf("from 1.2 to %v: no %q in %q", test.now, test.want, line)
		}
		if line := lineWith(text, Floor); line != "" {
			t.Errorf("the floor is compared with itself: %q", line)
		}
	}
}

func lineWith(text, word string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			return line
		}
	}
	return ""
}

func TestWrite(t *testing.T) {
	base := filepath.Join(t.TempDir(), "bench")
	r := result(1.2)
	if err := r.Write(base); err != nil {
		t.Fatal(err)
	}
	read, err := Read(base + ".json")
	if err != nil {
		t.Fatal(err)
	}
	if read.Text() != r.Text() {
		t.Errorf("what was read says\n%s\nwhat was written\n%s", read.Text(), r.Text())
	}
	page, err := os.ReadFile(base + ".html")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"20 % longer than", "&lt;b&gt;ours", "skipped: docker is not installed", "until the server speaks", "40.0 ms"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if got := strings.Count(string(page), "<svg"); got != 3 {
		t.Errorf("%d plots, want 3", got)
	}
	for _, banned := range []string{"<script", "src=", "<?xml"} {
		if strings.Contains(string(page), banned) {
			t.Errorf("the page has %q: it is to be self-contained", banned)
		}
	}
	if err := os.WriteFile(base+".json", []byte(`{"rounds": []}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(base + ".json"); err == nil || !strings.Contains(err.Error(), "is no result of this benchmark") {
		t.Errorf("of another file: %v", err)
	}
}
