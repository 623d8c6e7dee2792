package units

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"strings"
	"text/template"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/spec"
)

// next is what an administrator does after an install, ready to paste.
var next = template.Must(template.New("next").Parse(`Connect:

  ssh -i {{.Keys.Runner}} -o UserKnownHostsFile={{.Keys.KnownHosts}} -p {{.Port}} builder@{{.Host}}

known_hosts (in {{.Keys.KnownHosts}}):

{{.KnownHosts}}
GitLab Runner, on this host:

  {{.Self}} -url=https://gitlab.example.com/ -token=FILE

which writes this to /etc/gitlab-runner/config.toml:

  concurrent = {{.Concurrency}}

{{.Section}}
or let the runner write it, with "concurrent" still to set:

  {{.Register}}
`))

// Next says what to do after an install: how to connect, and how to tell GitLab Runner.
func Next(s spec.Spec, keys Keys) (string, error) {
	line, err := os.ReadFile(keys.KnownHosts)
	if err != nil {
		return "", err
	}
	section := runnerSection(s, keys)
	section.URL, section.Token = "https://gitlab.example.com/", "glrt-..."
	var text strings.Builder
	err = next.Execute(&text, struct {
		spec.Spec
		Keys       Keys
		Host, Port string
		KnownHosts string
		Section    string
		Register   string
		Self       string
	}{s, keys, s.SSH.Local().Addr().String(), fmt.Sprint(s.SSH.Local().Port()), indent(string(line)),
		indent(section.String()), section.Register(section.Token, false), command.Self("runner")})
	return text.String(), err
}

// indent moves lines to the right.
func indent(text string) string {
	return regexp.MustCompile(`(?m)^(.)`).ReplaceAllString(text, "  $1")
}

// Text says what was done and what comes next.
func (in Installed) Text(s spec.Spec) (string, error) {
	var text strings.Builder
	for _, change := range in.Changes {
		fmt.Fprintln(&text, change)
	}
	if len(in.Changes) == 0 {
		fmt.Fprintf(&text, "unchanged: %s version %s was installed already\n", s.Name, in.Version)
	}
	l := in.Limits
	fmt.Fprintf(&text, "%s version %s listens on %s for %d containers, each with %s of a core, %s of memory and %d tasks\n",
		s.Name, in.Version, s.SSH.Listen, s.Concurrency, l.CPUQuota, l.MemoryMax, l.TasksMax)
	if s.Home == spec.HomeDisk {
		fmt.Fprintf(&text, "its home may have %s of the disk; of the memory /tmp and /dev/shm may have %s each\n", l.HomeSize, l.TmpSize)
	} else {
		fmt.Fprintf(&text, "of the memory its home may have %s, and /tmp and /dev/shm %s each\n", l.HomeSize, l.TmpSize)
	}
	if s.Network == spec.NetworkPrivate {
		fmt.Fprintf(&text, "it reaches public addresses, its resolver and %s\n", cmp.Or(strings.Join(s.Allow, ", "), "nothing else: what it needs of your own network, name in allow in the spec"))
	}
	if s.Cache != 0 {
		fmt.Fprintf(&text, "jobs hand on to each other what is in /home/builder/cache, %s at most\n", s.Cache)
	}
	for _, warning := range in.Warnings {
		fmt.Fprintf(&text, "warning: %s\n", warning)
	}
	text.WriteString("\n")
	if in.Upgrade != "" {
		fmt.Fprintf(&text, "%s\n\n", in.Upgrade)
	}
	after, err := Next(s, in.Keys)
	text.WriteString(after)
	return text.String(), err
}

// Text says what was removed, what was kept, and why.
func (out Uninstalled) Text() string {
	var text strings.Builder
	for _, path := range out.Removed {
		fmt.Fprintln(&text, "removed", path)
	}
	if len(out.Removed) == 0 {
		fmt.Fprintln(&text, "nothing was installed")
	}
	if len(out.Kept) > 0 {
		fmt.Fprintln(&text, "kept the keys, which runners and known_hosts files elsewhere may refer to; remove them by hand if they don't:")
		for _, path := range out.Kept {
			fmt.Fprintln(&text, "  "+path)
		}
	}
	return text.String()
}
