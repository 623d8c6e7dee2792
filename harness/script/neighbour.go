package script

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ephemeral-builder/harness/sshclient"
)

// neighbourJob is what a small job does: programs, a file, and an answer.
const neighbourJob = `set -e; echo neighbour >file; sort file | sha256sum >sum; sha256sum <file | cmp - sum; cat file`

// neighbour needs a slot that is free. Its time is told to Env.Neighbour.
func (s *script) neighbour(ctx context.Context, c *call) error {
	var when string
	if err := c.parse(nil, &when); err != nil {
		return err
	}
	begin := time.Now()
	conn, err := sshclient.Dial(ctx, s.env.Builder)
	if err != nil {
		return fmt.Errorf("the neighbour can't connect: %w", err)
	}
	defer conn.Close()
	var stdout, stderr bytes.Buffer
	if err := conn.Run(ctx, neighbourJob, nil, &stdout, &stderr); err != nil {
		return fmt.Errorf("the neighbour's job: %w\n%s", err, stderr.String())
	}
	if strings.TrimSpace(stdout.String()) != "neighbour" {
		return errors.New("the neighbour's job printed something else: " + stdout.String())
	}
	took := time.Since(begin)
	c.ts.Logf("[%s: %.2f s]", when, took.Seconds())
	if s.env.Neighbour != nil {
		s.env.Neighbour(c.ts.Name(), when, took)
	}
	return nil
}
