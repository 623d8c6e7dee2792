package script

import (
	"fmt"
	"strings"
)

// Condition answers testscript's conditions from env.Conditions, for
// testscript.Params.Condition: [kind:vm] or [kind:container], [suite:NAME], and whatever
// else env names. A condition that env cannot know is an error, so that a misspelt one
// does not skip a line for ever.
func Condition(env *Env) func(cond string) (bool, error) {
	return func(cond string) (bool, error) {
		if value, ok := env.Conditions[cond]; ok {
			return value, nil
		}
		family, value, _ := strings.Cut(cond, ":")
		switch {
		case family == "kind" && (value == "vm" || value == "container"), family == "suite" && value != "":
			return false, nil
		}
		return false, fmt.Errorf("unknown condition")
	}
}
