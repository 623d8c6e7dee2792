package script

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	cryptossh "golang.org/x/crypto/ssh"

	"ephemeral-builder/harness/gitlab"
)

// job is one that a runner carries out.
type job struct {
	log    capture
	cancel chan gitlab.Cancel
	done   chan struct{}
	result gitlab.Result // once done is closed
}

// jobSettings are those of the runner, for the builder that [Env.Builder] is; the address is that
// of script lab-gitlab.
var jobSettings = gitlab.Settings{URL: "http://192.0.2.1:8080", BuildsDir: "/home/builder/builds", CacheDir: "/home/builder/cache"}

// jobOptions of the verbs that end with a job's result.
type jobOptions struct {
	system bool
	key    string
}

func (s *script) job(ctx context.Context, c *call) error {
	var o jobOptions
	var file string
	err := c.parse(func(f *flag.FlagSet) {
		f.BoolVar(&o.system, "system", false, "")
		f.StringVar(&o.key, "key", "", "")
	}, &file)
	if err != nil {
		return err
	}
	j, err := s.take(ctx, c, o.key, file)
	if err != nil {
		return err
	}
	return j.judge(ctx, c, o)
}

func (s *script) submit(ctx context.Context, c *call) error {
	var id, file string
	if err := c.parse(nil, &id, &file); err != nil {
		return err
	}
	if s.jobs[id] != nil {
		return misuse(fmt.Sprintf("there is a job %s already: use await", id))
	}
	j, err := s.take(ctx, c, "", file)
	if err == nil {
		s.jobs[id] = j
	}
	return err
}

func (s *script) await(ctx context.Context, c *call) error {
	var o jobOptions
	var id string
	if err := c.parse(func(f *flag.FlagSet) { f.BoolVar(&o.system, "system", false, "") }, &id); err != nil {
		return err
	}
	j, ok := s.jobs[id]
	if !ok {
		return misuse(fmt.Sprintf("there is no job %s: use submit", id))
	}
	err := j.judge(ctx, c, o)
	select {
	case <-j.done:
		delete(s.jobs, id)
	default:
	}
	return err
}

func (s *script) cancel(_ context.Context, c *call) error {
	how, id := gitlab.Hard, ""
	var graceful bool
	if err := c.parse(func(f *flag.FlagSet) { f.BoolVar(&graceful, "graceful", false, "") }, &id); err != nil {
		return err
	}
	j, ok := s.jobs[id]
	if !ok {
		return misuse(fmt.Sprintf("there is no job %s: use submit", id))
	}
	if graceful {
		how = gitlab.Graceful
	}
	select {
	case j.cancel <- how:
		return nil
	default:
		return misuse(fmt.Sprintf("%s was cancelled already", id))
	}
}

// take has the lab's GitLab make a job of a recipe, and begins it.
func (s *script) take(ctx context.Context, c *call, key, file string) (*job, error) {
	if s.env.Host == nil {
		return nil, misuse("jobs need a lab host")
	}
	target := s.env.Builder
	switch key {
	case "":
	case "wrong":
		var err error
		if target.Identity, err = stranger(); err != nil {
			return nil, err
		}
	default:
		return nil, misuse("the only key to choose is wrong")
	}
	var text, stderr bytes.Buffer
	if err := s.env.Host(ctx, "gitlab take", strings.NewReader(c.ts.ReadFile(file)), &text, &stderr); err != nil {
		return nil, &permanent{fmt.Errorf("the lab's GitLab takes no job, see: gitlab up: %w: %s", err, stderr.String())}
	}
	var todo gitlab.Job
	if err := json.Unmarshal(text.Bytes(), &todo); err != nil {
		return nil, err
	}
	todo.Runner.Timeout = int(s.scaled(time.Duration(todo.Runner.Timeout)*time.Second) / time.Second)
	j := &job{cancel: make(chan gitlab.Cancel, 1), done: make(chan struct{})}
	executor := gitlab.Executor{
		Settings: jobSettings, Addr: target.Addr, User: target.User,
		Identity: target.Identity, HostKey: cryptossh.FixedHostKey(target.HostKey),
	}
	go func() {
		defer close(j.done)
		j.result = executor.Run(s.ctx, todo, &j.log, j.cancel)
		fmt.Fprintln(&j.log, j.result)
		if j.result.Dials > 1 {
			fmt.Fprintf(&j.log, "after %d connections\n", j.result.Dials)
		}
	}()
	return j, nil
}

// judge waits for the job's end. Its log is what the verb prints.
func (j *job) judge(ctx context.Context, c *call, o jobOptions) error {
	select {
	case <-j.done:
	case <-ctx.Done():
		fmt.Fprint(c.stdout, j.log.String())
		return fmt.Errorf("the job still runs: %w", context.Cause(ctx))
	}
	fmt.Fprint(c.stdout, j.log.String())
	switch {
	case o.system && j.result.System == nil:
		return fmt.Errorf("no system failure: %s", j.result)
	case o.system:
		return &failed{j.result.System}
	case j.result.System != nil:
		return j.result.System
	case j.result != gitlab.Result{Dials: j.result.Dials}:
		return &failed{errors.New(j.result.String())}
	}
	return nil
}
