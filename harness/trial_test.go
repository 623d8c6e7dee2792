package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// runAttacks runs the hostile scripts. One that fails is a finding and no failed test; a
// failed test is one that could not be made.
func runAttacks(ctx context.Context, t *testing.T, p testscript.Params) ([]attack, error) {
	files, err := filepath.Glob(filepath.Join(p.Dir, "hostile-*.txtar"))
	if err != nil {
		return nil, err
	}
	texts := make(map[string]string)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		texts[strings.TrimSuffix(filepath.Base(file), ".txtar")] = string(text)
	}
	p.Dir, p.Files = "", files
	r := &trials{T: t, ctx: ctx, texts: texts}
	testscript.RunT(r, p)
	return r.attacks, nil
}

// trials gives each script a test of its own, one after the other.
type trials struct {
	*testing.T
	ctx     context.Context
	texts   map[string]string // of the scripts, by name
	attacks []attack
}

func (r *trials) Run(name string, f func(testscript.T)) {
	r.T.Run(name, func(t *testing.T) {
		one := &trial{T: t}
		done := make(chan struct{})
		go func() { // which a failure ends
			defer close(done)
			f(one)
		}()
		<-done
		if err := context.Cause(r.ctx); err != nil {
			t.Fatal(err)
		}
		a := attack{script: name, tries: tries(r.texts[name]), outcome: "held"}
		switch {
		case one.skipped:
			a.outcome = "skipped: " + one.why
		case one.failed:
			var err error
			if a.outcome, err = success(r.texts[name], one.log.String()); err != nil {
				t.Fatal(err)
			}
		}
		t.Log(a.outcome)
		r.attacks = append(r.attacks, a)
	})
}

func (r *trials) Parallel()     {}
func (r *trials) Verbose() bool { return testing.Verbose() }

// trial notes how one script ends, and what is said meanwhile.
type trial struct {
	*testing.T
	log             strings.Builder
	failed, skipped bool
	why             string
}

func (r *trial) Log(args ...any) {
	fmt.Fprintln(&r.log, args...)
	r.T.Log(args...)
}

func (r *trial) FailNow() {
	r.failed = true
	runtime.Goexit()
}

func (r *trial) Fatal(args ...any) {
	r.Log(args...)
	r.FailNow()
}

func (r *trial) Skip(args ...any) {
	r.skipped, r.why = true, fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *trial) Failed() bool                   { return r.failed }
func (r *trial) Skipped() bool                  { return r.skipped }
func (r *trial) Parallel()                      {}
func (r *trial) Verbose() bool                  { return testing.Verbose() }
func (r *trial) Run(string, func(testscript.T)) { panic("a script has no tests of its own") }
