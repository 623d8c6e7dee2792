package compare

import (
	"context"
	"errors"
	"os/exec"

	"ephemeral-builder/image/command"
)

// Diffoscope returns what diffoscope(1) says about two files, at most 1 MiB, or "" where
// it is not installed or finds no difference. It takes its time: minutes for an image.
func Diffoscope(ctx context.Context, first, second string) (string, error) {
	if _, err := exec.LookPath("diffoscope"); err != nil {
		return "", nil
	}
	out, err := command.Output(ctx, command.Cmd{Args: []string{
		"diffoscope", "--no-progress", "--text-color=never", "--max-text-report-size=1048576",
		"--text=-", "--", first, second,
	}})
	// Its exit status is that of diff(1): 1 is a difference, 2 is trouble.
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 && ctx.Err() == nil {
		err = nil
	}
	if err != nil {
		return "", err
	}
	return string(out), nil
}
