package script

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// eventually repeats a verb, with pauses from 10 to 500 ms, until it does what is asked
// for. An error that time doesn't cure ends it at once.
func (s *script) eventually(ctx context.Context, c *call) error {
	args := c.args
	if len(args) < 2 {
		return errUsage
	}
	limit, err := duration(args[0])
	if err != nil {
		return err
	}
	args = args[1:]
	neg := args[0] == "!"
	if neg {
		args = args[1:]
	}
	if len(args) == 0 {
		return errUsage
	}
	if !verbs()[args[0]].repeat {
		return misuse(fmt.Sprintf("%s cannot be repeated: use connect, ssh, neighbour or host", args[0]))
	}
	ctx, cancel := s.within(ctx, limit)
	defer cancel()

	var last error
	pause := 10 * time.Millisecond
	for attempts := 1; ; attempts++ {
		attempt := newCall(c.ts, args[0], neg, args[1:])
		err := verdict(neg, s.do(ctx, attempt))
		c.output, c.stdout, c.stderr = attempt.output, attempt.stdout, attempt.stderr
		var m misuse
		var p *permanent
		switch {
		case err == nil:
			c.ts.Logf("[attempt %d]", attempts)
			return nil
		case errors.As(err, &m), errors.As(err, &p):
			return fmt.Errorf("%s: %w", args[0], err)
		case last == nil || ctx.Err() == nil:
			last = err // the interruption of the last attempt would explain less
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("gave up after %v, attempt %d; last error: %s: %w", s.scaled(limit), attempts, args[0], last)
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
}
