// Package script gives testscript the verbs to talk to a builder and to its host, so that
// tests read as prose:
//
//	# Two connections get two homes.
//	connect a
//	connect b
//	ssh a 'echo secret >note'
//	! ssh b 'cat note'
//	stderr 'No such file'
//
// A verb with ! demands one particular failure: of a command that it ran and ended badly,
// of connect that the server said no. A wrong use of a verb, a lost connection and a
// deadline fail the script in either case.
//
//	[!] connect [-user U] [-key wrong] [-auth] NAME
//	    Connect to the builder. With ! the server must refuse the connection, or close it
//	    before the login; with -auth too, it must refuse the login.
//	close NAME
//	    End a connection that lasts.
//	dropped NAME [TIMEOUT]
//	    Wait until the server has ended the connection.
//	[!] ssh [-stdin FILE] [-stdout FILE] [-status S] NAME COMMAND
//	    Run COMMAND in a session of its own. -status demands an exit status (42), or a
//	    signal that ended the command (KILL).
//	start [-stdin FILE] ID NAME COMMAND
//	[!] finish [-status S] ID
//	    Start a command, and wait for its end later.
//	signal ID SIGNAL
//	    Ask the server to send SIGNAL (KILL) to a command that start started.
//	[!] host [-on NAME] [-stdin FILE] [-stdout FILE] [-status S] COMMAND
//	    Run COMMAND as root on the lab host, outside all containers. In a fleet that is the one
//	    before the others, which have a NAME.
//	transfer NAME SIZE
//	    Send SIZE (100M) of noise through cat, and compare what comes back meanwhile.
//	burst COUNT
//	    Open COUNT TCP connections to the builder as fast as possible, and print how many
//	    were served, closed, silent and failed.
//	neighbour WHEN
//	    Connect, run a small job as a well-behaved neighbour would, and close. WHEN is for the
//	    record of how long that takes: "before", "meanwhile".
//	[!] job [-system] [-key wrong] FILE
//	    Carry out the job that FILE describes, see [gitlab.Recipe], as GitLab Runner does: one
//	    connection, a session for each stage. The log is what it prints. With ! the job must fail,
//	    and with -system too, by no fault of its script.
//	submit ID FILE
//	cancel [-graceful] ID
//	[!] await [-system] ID
//	    Begin a job, have it cancelled, and wait for its end.
//	crowd -authority FILE -identity FILE [-length SECONDS] ID COUNT
//	gather ID
//	    Begin COUNT jobs of mixed lengths, one connection after the other, on hosts that have
//	    certificates of an authority; and wait for their ends. What it prints says how many of
//	    each host did and did not end well.
//	restart
//	    End the lab host as a power cut does, and wait until it is up again.
//	halt NAME
//	    End a host of a fleet as a power cut does, until the end of the script.
//	eventually DURATION [!] VERB ARGUMENT...
//	    Repeat connect, ssh, neighbour or host until it does what is asked for.
//
// What a command printed is there for stdout, stderr and cmp, as after exec. FILE may be
// stdout or stderr for what the last one printed. testscript's own stdin verb is of no
// effect here, as its value is private to testscript: use -stdin.
//
// Every verb has a deadline. Run scripts with RequireExplicitExec and RequireUniqueNames.
package script

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"ephemeral-builder/harness/sshclient"
)

// Shell runs a shell command as root on a host. Its errors are those of [sshclient.Conn.Run]:
// nothing but an ExitError says that the command failed.
type Shell func(ctx context.Context, cmd string, stdin io.Reader, stdout, stderr io.Writer) error

// Env is the lab that scripts run against. It is not changed by them.
type Env struct {
	Builder sshclient.Target // the builder, as seen from outside

	// Host runs commands on the lab host. It may be nil, then scripts that use it fail.
	Host Shell
	// Hosts are the others of a fleet; Halt ends one of them as a power cut does.
	Hosts map[string]Shell
	Halt  func(ctx context.Context, name string) error

	// Restart ends the host as a power cut does, and returns when it is up again. It may be nil.
	Restart func(ctx context.Context) error

	// Neighbour is told how long neighbour took in a script. It may be nil.
	Neighbour func(script, when string, took time.Duration)

	Scale      float64           // factor for all deadlines, for emulated machines; 0 is 1
	Conditions map[string]bool   // such as "kind:vm", "suite:trixie", "cgroup"; see [Condition]
	Vars       map[string]string // environment variables of scripts, such as HOST_ADDR
}

// deadline of a verb that has none of its own, times Env.Scale.
const deadline = time.Minute

// key finds a script's state among testscript's values.
type key struct{}

// script is the state of one running script.
type script struct {
	env      *Env
	ctx      context.Context // ends with the script, or shortly before the test binary's time is up
	conns    map[string]*sshclient.Conn
	sessions map[string]*session
	jobs     map[string]*job
	crowds   map[string]*crowd
	halted   map[string]bool
	files    []io.Closer // open until the script's end
}

// Setup prepares a script, for testscript.Params.Setup. What the script opens is closed
// at its end, however it ends.
func Setup(env *Env) func(*testscript.Env) error {
	return func(e *testscript.Env) error {
		ctx, cancel := context.WithCancel(context.Background())
		if t, ok := e.T().(interface{ Deadline() (time.Time, bool) }); ok {
			if end, ok := t.Deadline(); ok {
				// Leaves time to report: at its deadline the test binary only prints stacks.
				end = end.Add(-max(time.Until(end)/20, time.Second))
				ctx, cancel = context.WithDeadlineCause(context.Background(), end,
					fmt.Errorf("the time of the whole test is up: %w", context.DeadlineExceeded))
			}
		}
		s := &script{
			env:      env,
			ctx:      ctx,
			conns:    make(map[string]*sshclient.Conn),
			sessions: make(map[string]*session),
			jobs:     make(map[string]*job),
			crowds:   make(map[string]*crowd),
			halted:   make(map[string]bool),
		}
		e.Values[key{}] = s
		e.Defer(func() {
			cancel()
			s.close()
		})
		for _, name := range slices.Sorted(maps.Keys(env.Vars)) {
			e.Setenv(name, env.Vars[name])
		}
		return nil
	}
}

func (s *script) close() {
	for _, conn := range s.conns {
		conn.Close()
	}
	for _, session := range s.sessions {
		<-session.Done()
	}
	for _, job := range s.jobs {
		<-job.done
	}
	for _, crowd := range s.crowds {
		<-crowd.done
	}
	for _, file := range s.files {
		file.Close()
	}
}

func (s *script) scaled(d time.Duration) time.Duration {
	if s.env.Scale == 0 {
		return d
	}
	return time.Duration(float64(d) * s.env.Scale)
}

// within is ctx with a deadline after d, which is scaled.
func (s *script) within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	d = s.scaled(d)
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("no result after %v: %w", d, context.DeadlineExceeded))
}

// conn is the connection NAME, whether it lasts or not.
func (s *script) conn(name string) (*sshclient.Conn, error) {
	conn, ok := s.conns[name]
	if !ok {
		return nil, misuse(fmt.Sprintf("there is no connection %s: use connect", name))
	}
	return conn, nil
}

// alive is the connection NAME, which must last.
func (s *script) alive(name string) (*sshclient.Conn, error) {
	conn, err := s.conn(name)
	if err == nil && conn.Err() != nil {
		err = &permanent{fmt.Errorf("%s has ended: %w", name, conn.Err())}
	}
	return conn, err
}
