// Package scripts holds the shell and perl that run as they stand, on the host or in a container.
package scripts

import "embed"

// FS holds every script of this folder under its own name.
//
//go:embed *
var FS embed.FS
