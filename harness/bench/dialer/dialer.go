// Command dialer measures SSH connections from the machine it runs on, which is where the
// servers are: what leads into a lab would be part of every figure otherwise. It reads a
// [plan.Plan] as JSON from standard input and prints each [plan.Sample] as a line of JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"ephemeral-builder/harness/bench/plan"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var p plan.Plan
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		return fmt.Errorf("reading the plan: %w", err)
	}
	encoder := json.NewEncoder(os.Stdout)
	return p.Run(ctx, func(s plan.Sample) error { return encoder.Encode(s) })
}
