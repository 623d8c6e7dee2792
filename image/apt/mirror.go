package apt

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"ephemeral-builder/image/command"
)

// DefaultMirror is the first mirror of Debian itself in the host's apt configuration, or
// else the one that debootstrap would take.
func DefaultMirror(ctx context.Context) (string, error) {
	targets, err := command.Output(ctx, command.Cmd{Args: []string{
		"apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)",
		"Created-By: Packages", "Origin: Debian", "Label: Debian",
	}})
	if err == nil {
		for line := range strings.Lines(string(targets)) {
			uri, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			release, component, _ := strings.Cut(rest, " ")
			// It goes into the image and its manifest: one with a password must not.
			u, err := url.Parse(uri)
			public := err == nil && u.User == nil && slices.Contains([]string{"http", "https", "file"}, u.Scheme)
			if component == "main" && !strings.Contains(release, "-") && public {
				return uri, nil
			}
		}
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	path, err := exec.LookPath("debootstrap")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/debootstrap") // not in the PATH of ordinary users
	}
	if err != nil {
		return "", fmt.Errorf("no Debian mirror in apt's configuration and no debootstrap to ask: set mirror in the spec: %w", err)
	}
	script, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	match := regexp.MustCompile(`(?m)^DEF_MIRROR="([^"]+)"`).FindSubmatch(script)
	if match == nil {
		return "", fmt.Errorf("%s names no default mirror: set mirror in the spec", path)
	}
	return string(match[1]), nil
}
