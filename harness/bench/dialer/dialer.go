// Command dialer measures SSH connections from the machine it runs on, which is where the
// servers are: what leads into a lab would be part of every figure otherwise. It reads a
// [plan.Plan] as JSON from standard input and prints each [plan.Sample] as a line of JSON; or
// with the argument growth a [plan.Growth], of which it prints each [plan.Level].
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
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	encoder := json.NewEncoder(os.Stdout)
	if len(os.Args) > 1 && os.Args[1] == "growth" {
		var g plan.Growth
		if err := decoder.Decode(&g); err != nil {
			return fmt.Errorf("reading the plan: %w", err)
		}
		return g.Run(ctx, func(l plan.Level) error { return encoder.Encode(l) })
	}
	var p plan.Plan
	if err := decoder.Decode(&p); err != nil {
		return fmt.Errorf("reading the plan: %w", err)
	}
	return p.Run(ctx, func(s plan.Sample) error { return encoder.Encode(s) })
}
