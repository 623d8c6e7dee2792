package script_test

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"

	"ephemeral-builder/harness/script"
	"ephemeral-builder/harness/sshclient"
	"ephemeral-builder/harness/sshclient/sshtest"
)

// params are for a script with a builder of its own, whose nature is the first word of
// the script's name: see the cases, and obedient for any other.
func params(t *testing.T, file string) testscript.Params {
	t.Helper()
	env := &script.Env{
		Scale:      1,
		Conditions: map[string]bool{"kind:container": true, "suite:trixie": true, "cgroup": false},
		Vars:       map[string]string{"HOST_NAME": "lab"},
	}
	options := sshtest.Options{MaxConnections: 3}
	nature, _, _ := strings.Cut(filepath.Base(file), "-")
	switch nature {
	case "silent":
		options.Mode = sshtest.Silent
	case "stalling":
		options.Mode = sshtest.Stalls
	case "corrupting":
		options.Mode = sshtest.Corrupts
	case "truncating":
		options.Mode = sshtest.Truncates
	case "closing":
		options.Mode = sshtest.ClosesHandshake
	}
	if nature == "silent" || nature == "stalling" || nature == "hurried" {
		env.Scale = 0.01 // a minute is 0.6 s
	}
	builder := sshtest.Start(t, options)
	env.Builder = builder.Target
	if nature == "hostkey" {
		env.Builder.HostKey = sshtest.Key(t).PublicKey()
	}
	if nature == "nothing" {
		builder.Stop()
	}

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	host, err := sshclient.Dial(ctx, sshtest.Start(t, sshtest.Options{}).Target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	env.Host = host.Run
	if nature == "fleet" {
		env.Hosts = map[string]script.Shell{"alpha": func(ctx context.Context, cmd string, stdin io.Reader, stdout, stderr io.Writer) error {
			return host.Run(ctx, "NAME=alpha; "+cmd, stdin, stdout, stderr)
		}}
		env.Halt = func(context.Context, string) error { return nil }
	}
	return testscript.Params{
		Files:               []string{file},
		Setup:               script.Setup(env),
		Cmds:                script.Commands(env),
		Condition:           script.Condition(env),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	}
}

func scripts(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts match %s: %v", pattern, err)
	}
	return files
}

func TestScripts(t *testing.T) {
	for _, file := range scripts(t, "testdata/*.txtar") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			testscript.Run(t, params(t, file))
		})
	}
}

// TestFailures proves that scripts fail that must: each at its last line, with a message
// that matches its section want.
func TestFailures(t *testing.T) {
	for _, file := range scripts(t, "testdata/fail/*.txtar") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want string
			for _, f := range archive.Files {
				if f.Name == "want" {
					want = strings.TrimSpace(string(f.Data))
				}
			}
			if want == "" {
				t.Fatal("the script has no section want")
			}
			last := strings.Count(strings.TrimRight(string(archive.Comment), "\n"), "\n") + 1
			r := &recorder{}
			testscript.RunT(r, params(t, file))
			if !r.failed {
				t.Fatalf("the script passed:\n%s", &r.log)
			}
			if !regexp.MustCompile(fmt.Sprintf(`(?m)^FAIL: .*:%d: %s`, last, want)).MatchString(r.log.String()) {
				t.Errorf("got\n%s\nwant a failure in line %d that matches %s", &r.log, last, want)
			}
		})
	}
}

// recorder is a test that notes whether it failed.
type recorder struct {
	log    strings.Builder
	failed bool
}

func (r *recorder) Run(_ string, f func(testscript.T)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
}

func (r *recorder) FailNow() {
	r.failed = true
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) {
	r.Log(args...)
	r.FailNow()
}

func (r *recorder) Skip(...any)     { runtime.Goexit() }
func (r *recorder) Log(args ...any) { fmt.Fprintln(&r.log, args...) }
func (r *recorder) Parallel()       {}
func (r *recorder) Verbose() bool   { return false }
