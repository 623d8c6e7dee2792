package bench

import (
	"slices"
	"strings"
	"time"

	"ephemeral-builder/image/progress"
)

// Step is a part of a run.
type Step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// The steps that the program looks at, or that both sides have.
const (
	stepPrepare    = "prepare"
	stepDecompress = "decompress"
	stepExtract    = "extract"
	stepCore       = "install the core"
	stepUnpack     = "unpack"
	stepConfigure  = "configure"
	stepEssential  = "install essential"
	stepRest       = "install the rest"
	stepSave       = "save for the next build"
	stepRestore    = "restore"
	stepPack       = "pack"
	stepElse       = "other"
)

// steps adds up how long each step took.
type steps struct {
	all   []Step // in the order of their beginnings, each once
	name  string
	since time.Time
}

// next says that another step, or more of an earlier one, begins, and ends the one before.
func (s *steps) next(name string, at time.Time) {
	if s.name != "" {
		i := slices.IndexFunc(s.all, func(one Step) bool { return one.Name == s.name })
		if i < 0 {
			i = len(s.all)
			s.all = append(s.all, Step{Name: s.name})
		}
		s.all[i].Seconds += at.Sub(s.since).Seconds()
	}
	s.name, s.since = name, at
}

// stepOf is the step that begins with an event of a build of ours.
func stepOf(e progress.Event) string {
	if e.Ended {
		return stepElse
	}
	word, _, _ := strings.Cut(e.Detail, " ")
	switch e.Stage + " " + word {
	case "bootstrap ":
		return stepPrepare
	case "bootstrap decompressing":
		return stepDecompress
	case "bootstrap extracting":
		return stepExtract
	case "bootstrap installing":
		return stepCore
	case "bootstrap unpacking":
		return stepUnpack
	case "bootstrap configuring":
		return stepConfigure
	case "bootstrap saving":
		return stepSave
	case "bootstrap restoring":
		return stepRestore
	case "pack describing":
		return "describe"
	}
	return e.Stage
}

// stepOfMmdebstrap is the step that begins with a line of mmdebstrap, or empty.
func stepOfMmdebstrap(line string) string {
	for _, known := range []struct{ start, step string }{
		{"I: running apt-get update", "read the index"},
		{"I: downloading packages", "choose packages"},
		{"I: extracting archives", stepExtract},
		{"I: installing essential packages", stepEssential},
		{"I: installing remaining packages", stepRest},
		{"I: cleaning package lists", "clean up"},
		{"I: creating tarball", stepPack},
		{"I: removing tempdir", "clean up"},
	} {
		if strings.HasPrefix(line, known.start) {
			return known.step
		}
	}
	return ""
}
