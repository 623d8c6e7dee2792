package harness

import (
	"context"
	"os"
	"path/filepath"

	"ephemeral-builder/harness/simulate/study"
	"ephemeral-builder/image/progress"
)

// Simulate simulates many hosts, and shows what they are like. The results are ResultsDir/fleet.json and
// fleet.html.
func Simulate(ctx context.Context, rep *progress.Reporter, o study.Options) error {
	stage := rep.Stage("simulate")
	defer stage.Fail() // of no effect after Done
	r, err := study.Run(ctx, o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(ResultsDir, 0o755); err != nil {
		return err
	}
	base := filepath.Join(ResultsDir, "fleet")
	if err := r.Write(base); err != nil {
		return err
	}
	stage.Done("%d jobs a day, %d hosts", r.Jobs, r.Hosts)
	rep.Note("%s", r.Text())
	rep.Note("to look at: %s", base+".html")
	return nil
}
