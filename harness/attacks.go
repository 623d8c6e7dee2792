package harness

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// attack is a hostile script, and how it went against units that are not ours.
type attack struct {
	script  string // its name
	tries   string // its first comment
	outcome string // "held", "succeeds: WHY" or "skipped: WHY"
}

// leftover is what the log of a script says before what it left on the host.
const leftover = "the script left this on the host:\n"

// hostDown is what the log of a script says if the host did not live through it.
const hostDown = "the host went down meanwhile, see console.log"

// failure finds the failed line in testscript's log: the last is that which ended the script.
var failure = regexp.MustCompile(`(?m)^FAIL: [^\n]*\.txtar:(\d+): (.*)$`)

// judging is what a line begins with that only looks at what another has printed.
var judging = regexp.MustCompile(`^(! *)?(stdout|stderr|cmp|grep|cp)\b`)

// success says of a script that failed by what its attack succeeds: its failed line, and what
// was said there. It is an error if no line failed: then the attack was never made.
func success(text, log string) (string, error) {
	down := strings.Contains(log, hostDown)
	if found := failure.FindAllStringSubmatch(log, -1); found != nil {
		last := found[len(found)-1]
		number, _ := strconv.Atoi(last[1]) // digits
		if lines := strings.Split(text, "\n"); number > 0 && number <= len(lines) {
			line := code(lines[number-1])
			if i := number - 1; judging.MatchString(lines[i]) {
				for i > 0 && judging.MatchString(lines[i]) {
					i--
				}
				line = code(lines[i]) + ", then " + line
			}
			outcome := fmt.Sprintf("succeeds: line %d, %s: %s", number, line, shorten(last[2]))
			if down {
				outcome += "; " + hostDown
			}
			return outcome, nil
		}
	} else if down {
		return "succeeds: " + hostDown, nil
	} else if _, left, ok := strings.Cut(log, leftover); ok {
		left, _, _ = strings.Cut(left, "\n")
		return "succeeds: leaves " + code(left) + " behind", nil
	}
	return "", fmt.Errorf("the script failed before its first line:\n%s", log)
}

// tries is what a script says of itself: its first comment.
func tries(text string) string {
	for line := range strings.Lines(text) {
		if comment, ok := strings.CutPrefix(line, "#"); ok {
			return strings.TrimSpace(comment)
		}
	}
	return ""
}

// attackTable shows attacks in Markdown.
func attackTable(o TestOptions, attacks []attack) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Attacks on the units of testdata/%s\n\nIn a %s lab with %s.\n\n", o.Units, o.Kind, o.Suite)
	b.WriteString("| script | what it tries | outcome |\n|---|---|---|\n")
	cell := strings.NewReplacer("|", `\|`, "\n", " ")
	for _, a := range attacks {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", a.script, cell.Replace(a.tries), cell.Replace(a.outcome))
	}
	return b.String()
}

// code is text as it stands, in Markdown: between more backticks than it has in a row.
func code(text string) string {
	text = shorten(strings.TrimSpace(text))
	fence := "`"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	if len(fence) > 1 { // it may begin or end with one
		text = " " + text + " "
	}
	return fence + text + fence
}

// shorten leaves of text what a cell has room for.
func shorten(text string) string {
	const most = 240
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}
