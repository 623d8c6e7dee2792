package script

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// verb is a command of scripts.
type verb struct {
	run    func(s *script, ctx context.Context, c *call) error
	usage  string
	neg    bool          // has a meaning with !
	output bool          // sets what stdout and stderr look at
	repeat bool          // may follow eventually
	limit  time.Duration // deadline, to be scaled; none if the verb sets its own
}

func verbs() map[string]verb {
	return map[string]verb{
		"connect":    {run: (*script).connect, usage: "[-user U] [-key wrong] [-auth] NAME", neg: true, repeat: true, limit: deadline},
		"close":      {run: (*script).closeConn, usage: "NAME", limit: deadline},
		"dropped":    {run: (*script).dropped, usage: "NAME [TIMEOUT]"},
		"ssh":        {run: (*script).ssh, usage: "[-stdin FILE] [-stdout FILE] [-status S] NAME COMMAND", neg: true, output: true, repeat: true, limit: deadline},
		"start":      {run: (*script).start, usage: "[-stdin FILE] ID NAME COMMAND", output: true, limit: deadline},
		"finish":     {run: (*script).finish, usage: "[-status S] ID", neg: true, output: true, limit: deadline},
		"signal":     {run: (*script).signal, usage: "ID SIGNAL", limit: deadline},
		"host":       {run: (*script).host, usage: "[-on NAME] [-stdin FILE] [-stdout FILE] [-status S] COMMAND", neg: true, output: true, repeat: true, limit: deadline},
		"transfer":   {run: (*script).transfer, usage: "NAME SIZE", output: true, limit: deadline},
		"neighbour":  {run: (*script).neighbour, usage: "WHEN", repeat: true, limit: deadline},
		"restart":    {run: (*script).restart, usage: ""},
		"halt":       {run: (*script).halt, usage: "NAME", limit: deadline},
		"burst":      {run: (*script).burst, usage: "COUNT", output: true, limit: deadline},
		"job":        {run: (*script).job, usage: "[-system] [-key wrong] FILE", neg: true, output: true, limit: 2 * deadline},
		"submit":     {run: (*script).submit, usage: "ID FILE", limit: deadline},
		"await":      {run: (*script).await, usage: "[-system] ID", neg: true, output: true, limit: 2 * deadline},
		"cancel":     {run: (*script).cancel, usage: "[-graceful] ID", limit: deadline},
		"crowd":      {run: (*script).crowd, usage: "-authority FILE -identity FILE [-length SECONDS] ID COUNT", limit: 2 * deadline},
		"gather":     {run: (*script).gather, usage: "ID", output: true, limit: 5 * deadline},
		"eventually": {run: (*script).eventually, usage: "DURATION [!] VERB ARGUMENT..."},
	}
}

// Commands are the verbs, for testscript.Params.Cmds. They need [Setup] with the same env.
func Commands(env *Env) map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	commands := make(map[string]func(*testscript.TestScript, bool, []string))
	for name := range verbs() {
		commands[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			s, ok := ts.Value(key{}).(*script)
			if !ok || s.env != env {
				ts.Fatalf("%s: the script was not set up: use script.Setup with the same environment", name)
			}
			c := newCall(ts, name, neg, args)
			err := s.do(s.ctx, c)
			if c.output { // even if there was none: the previous verb's must not be taken for it
				io.WriteString(ts.Stdout(), c.stdout.String())
				io.WriteString(ts.Stderr(), c.stderr.String())
			}
			var f *failed
			if neg && errors.As(err, &f) {
				ts.Logf("[%v]", f)
			}
			if err := verdict(neg, err); err != nil {
				ts.Fatalf("%s: %v", name, err)
			}
		}
	}
	return commands
}

// call is one use of a verb.
type call struct {
	ts   *testscript.TestScript
	name string
	neg  bool
	args []string

	output         bool // stdout and stderr count
	stdout, stderr *capture
}

func newCall(ts *testscript.TestScript, name string, neg bool, args []string) *call {
	return &call{ts: ts, name: name, neg: neg, args: args, stdout: new(capture), stderr: new(capture)}
}

// do runs c's verb. The error is nil, a [failed], a [misuse], or anything else that says
// nothing about what the verb was to find out.
func (s *script) do(ctx context.Context, c *call) error {
	v := verbs()[c.name]
	c.output = v.output
	if c.neg && !v.neg {
		return misuse("! has no meaning here")
	}
	if v.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = s.within(ctx, v.limit)
		defer cancel()
	}
	err := v.run(s, ctx, c)
	if errors.Is(err, errUsage) {
		return misuse(fmt.Sprintf("%v: %s %s", err, c.name, v.usage))
	}
	return err
}

// verdict is what err means for a verb that was used with ! or without.
func verdict(neg bool, err error) error {
	var f *failed
	switch {
	case !neg:
		return err
	case err == nil:
		return errors.New("succeeded, but must fail")
	case errors.As(err, &f):
		return nil
	}
	return err
}

// failed is the failure that ! demands.
type failed struct{ error }

// misuse is a mistake in the script. Neither ! nor eventually has patience with it.
type misuse string

func (m misuse) Error() string { return string(m) }

// permanent is an error that no repetition will change.
type permanent struct{ error }

func (p *permanent) Unwrap() error { return p.error }

var errUsage = errors.New("usage")

// parse reads the flags that define names, and wants as many arguments after them as
// there are positions. Empty ones are mistakes: mostly a variable that is not set.
func (c *call) parse(define func(*flag.FlagSet), positions ...*string) error {
	flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	if define != nil {
		define(flags)
	}
	if err := flags.Parse(c.args); err != nil {
		return fmt.Errorf("%v, %w", err, errUsage)
	}
	if flags.NArg() != len(positions) {
		return errUsage
	}
	for i, position := range positions {
		if *position = flags.Arg(i); *position == "" {
			return fmt.Errorf("argument %d is empty, %w", i+1, errUsage)
		}
	}
	return nil
}

// maxCapture is how much a command may print: a runaway one must not eat all memory.
const maxCapture = 16 << 20

// capture keeps what is written to it.
type capture struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buf.Len()+len(p) > maxCapture {
		return 0, fmt.Errorf("more than %d MiB: use -stdout FILE", maxCapture>>20)
	}
	return c.buf.Write(p)
}

func (c *capture) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}
