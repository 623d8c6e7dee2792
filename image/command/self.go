package command

import (
	"os"
	"path/filepath"
)

// program is the name of the magefile when it is compiled, as the Debian package has it.
const program = "ephemeral-builder"

// Self is how people run a target of this program: with Go in a checkout, or the compiled one.
func Self(target string) string {
	if filepath.Base(os.Args[0]) == program {
		return program + " " + target
	}
	return "go tool mage " + target
}
