// Package runner writes what GitLab Runner needs to know of a builder: a [[runners]] section of
// its config.toml, and the command that registers the same.
package runner

import (
	"cmp"
	"fmt"
	"strings"

	"ephemeral-builder/image/command"
)

// Section is a [[runners]] section with the executor ssh. Its keys are those of
// https://docs.gitlab.com/runner/configuration/advanced-configuration/; known_hosts_file is in
// the runner's own source only.
type Section struct {
	Name  string
	URL   string // of GitLab; jobs reach its API and repositories there, too
	Token string // that authenticates the runner
	Limit int    // jobs at once

	// Requests for jobs at once; zero is 2. GitLab answers one late if it has no job, and with only one
	// the runner itself warns of jobs that wait meanwhile.
	Requests int

	Host         string
	Port         int
	User         string
	IdentityFile string // private key
	KnownHosts   string // file with the builder's host key

	// Both absolute: with one of them relative, or left to its default, there is no cache and no
	// error.
	BuildsDir, CacheDir string
}

// ForBuilder is a section for a builder, with neither keys nor what GitLab has to say. Host is a name
// or an address, which for the runner has brackets if it is of IPv6: it puts a colon and the port
// behind it.
func ForBuilder(name, host string, port uint16, limit int) Section {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return Section{
		Name: name, Limit: limit, Host: host, Port: int(port), User: "builder",
		BuildsDir: "/home/builder/builds", CacheDir: "/home/builder/cache",
	}
}

// entry is a key with its value, as TOML writes it.
type entry struct{ key, value string }

// top are the keys of [[runners]], and below those of [runners.ssh].
func (s Section) top() []entry {
	return []entry{
		{"name", quote(s.Name)},
		{"url", quote(s.URL)},
		{"token", quote(s.Token)},
		{"executor", quote("ssh")},
		{"limit", fmt.Sprint(s.Limit)},
		{"request_concurrency", fmt.Sprint(s.requests())},
		{"builds_dir", quote(s.BuildsDir)},
		{"cache_dir", quote(s.CacheDir)},
	}
}

func (s Section) ssh() []entry {
	return []entry{
		{"user", quote(s.User)},
		{"host", quote(s.Host)},
		{"port", quote(fmt.Sprint(s.Port))}, // a string
		{"identity_file", quote(s.IdentityFile)},
		{"known_hosts_file", quote(s.KnownHosts)},
		{"disable_strict_host_key_checking", "false"},
	}
}

func (s Section) requests() int { return cmp.Or(s.Requests, 2) }

// String is the section as TOML.
func (s Section) String() string {
	var text strings.Builder
	text.WriteString("[[runners]]\n")
	writeEntries(&text, "  ", s.top())
	text.WriteString("  [runners.ssh]\n")
	writeEntries(&text, "    ", s.ssh())
	return text.String()
}

func writeEntries(text *strings.Builder, indent string, entries []entry) {
	for _, e := range entries {
		fmt.Fprintf(text, "%s%s = %s\n", indent, e.key, e.value)
	}
}

// quote writes a basic string, https://toml.io/en/v1.0.0#string.
func quote(s string) string {
	var text strings.Builder
	text.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			text.WriteRune('\\')
			text.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&text, "\\u%04X", r)
		default:
			text.WriteRune(r)
		}
	}
	text.WriteByte('"')
	return text.String()
}

// Register is the command that has the runner itself write the section, or nearly: "concurrent"
// it leaves alone. token is a word for the shell, as a secret in a command is seen by all users. A
// runner that GitLab's page or API has made has a token that begins with glrt-, since GitLab 16;
// GitLab before it hands out a registration token, of many runners.
func (s Section) Register(token string, registration bool) string {
	option := "--token"
	if registration {
		option = "--registration-token"
	}
	word := func(s string) string { return command.Quote([]string{s}) }
	return strings.Join([]string{
		"gitlab-runner register --non-interactive",
		fmt.Sprintf("--name %s --url %s %s %s", word(s.Name), word(s.URL), option, token),
		fmt.Sprintf("--executor ssh --limit %d --request-concurrency %d", s.Limit, s.requests()),
		fmt.Sprintf("--ssh-host %s --ssh-port %d --ssh-user %s", word(s.Host), s.Port, word(s.User)),
		"--ssh-identity-file " + word(s.IdentityFile),
		"--ssh-known-hosts-file " + word(s.KnownHosts),
		fmt.Sprintf("--builds-dir %s --cache-dir %s", word(s.BuildsDir), word(s.CacheDir)),
	}, " \\\n    ")
}
