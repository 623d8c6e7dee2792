package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/units"
	"ephemeral-builder/units/runner"
	"ephemeral-builder/units/status"
)

// install is the remedy for what is not there.
func install() string { return "run: " + command.Self("install") }

func currentImage(_ context.Context, s subject) []Finding {
	_, current, err := units.Versions(s.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return []Finding{fail(s.Name+" has no image on this host", "containers are made of it", install())}
	} else if err != nil {
		return []Finding{unknown(err)}
	}
	if _, err := os.Stat(filepath.Join(units.ContainerDir, s.Name)); err != nil {
		return []Finding{fail(err.Error(), "containers are made of it", install())}
	}
	manifest, err := manifestOf(s)
	if err != nil {
		return []Finding{warn(err.Error(), "nobody knows what is in the image", "install the same version again from where it came")}
	}
	return []Finding{ok("version %s, %s of %s", current, manifest.Codename, manifest.Architecture)}
}

func socket(ctx context.Context, s subject) []Finding {
	builders, err := status.Read(ctx, s.Name)
	if err != nil {
		return []Finding{fail(err.Error(), "nobody listens", install())}
	}
	b := builders[0]
	switch {
	case !b.Active:
		return []Finding{fail(s.Name+".socket does not listen", "runners are refused", "systemctl start "+s.Name+".socket, and look at: journalctl -u "+s.Name+".socket")}
	case b.Listen != s.SSH.Listen.String():
		return []Finding{fail("it listens on "+b.Listen+", and the spec says "+s.SSH.Listen.String(), "the spec was changed since the install, or is another one's", install()+", or name the spec with -spec")}
	}
	return []Finding{ok("listens on %s; %d connections accepted, %d refused", b.Listen, b.Accepted, b.Refused)}
}

func slots(ctx context.Context, s subject) (found []Finding) {
	builders, err := status.Read(ctx, s.Name)
	if err != nil {
		return []Finding{unknown(err)}
	}
	b := builders[0]
	if b.Slots != s.Concurrency {
		found = append(found, fail(fmt.Sprintf("there are %d, and the spec says %d", b.Slots, s.Concurrency), "jobs above them are refused", install()))
	}
	out, err := command.Output(ctx, command.Cmd{Args: []string{"systemctl", "list-units", "--failed", "--plain", "--no-legend", s.Name + ".*", s.Name + "@*", s.Name + "-slots.*", s.Name + "-upkeep.*", s.Name + "-warm.*", s.Name + "-update.*"}})
	if err != nil {
		found = append(found, unknown(err))
	}
	for line := range strings.Lines(string(out)) {
		unit, _, _ := strings.Cut(line, " ")
		found = append(found, fail(unit+" has failed", "what it does is not done", "look at: journalctl -u "+unit))
	}
	if len(found) == 0 {
		found = append(found, ok("%d of %d serve, %d wait, %d are free", len(b.Containers), b.Slots, b.Waiting, b.Free))
	}
	return found
}

func network(ctx context.Context, s subject) (found []Finding) {
	for _, warning := range units.Warnings(ctx, s.Spec) {
		what, do, _ := strings.Cut(warning, ": ")
		found = append(found, warn(what, "it is not what jobs usually want", do))
	}
	if len(found) == 0 {
		found = append(found, ok("%s", s.Network))
	}
	return found
}

func keyFiles(_ context.Context, s subject) (found []Finding) {
	for _, path := range []string{s.keys.HostKey, s.keys.Runner} {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			found = append(found, fail(err.Error(), "nobody can log in without it", install()))
		case info.Mode().Perm()&0o077 != 0:
			found = append(found, fail(fmt.Sprintf("%s has mode %04o", path, info.Mode().Perm()), "whoever reads it can be the builder, or its client", "chmod 600 "+path+", or move it away and install, if somebody may have read it"))
		}
	}
	host, err := publicKey(s.keys.HostKey + ".pub")
	if err == nil {
		known, readErr := os.ReadFile(s.keys.KnownHosts)
		certificate, _ := units.ReadCertificate(s.keys.Certificate) // see the check of that name
		if readErr != nil || !bytes.Equal(known, units.KnownHosts(s.SSH.Local(), host, certificate)) {
			found = append(found, fail(s.keys.KnownHosts+" does not have the host's key, or its authority", "the runner refuses the connection", install()))
		}
	}
	authorized, err := os.ReadFile(s.keys.AuthorizedKeys)
	switch runner, keyErr := publicKey(s.keys.Runner + ".pub"); {
	case err != nil:
		found = append(found, fail(err.Error(), "nobody can log in without it", install()))
	case keyErr == nil && !bytes.Contains(authorized, bytes.TrimSpace(ssh.MarshalAuthorizedKey(runner))):
		found = append(found, fail(s.keys.AuthorizedKeys+" lacks the key of "+s.keys.Runner, "the runner is refused", install()))
	}
	if len(found) == 0 {
		found = append(found, ok("host and runner have theirs, in %s", filepath.Dir(s.keys.HostKey)))
	}
	return found
}

func publicKey(path string) (ssh.PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	return key, err
}

func tell() string { return "run: " + command.Self("runner") }

// runnerConfig compares what GitLab Runner has been told with the spec.
func runnerConfig(_ context.Context, s subject) []Finding {
	text, err := os.ReadFile(units.RunnerConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return []Finding{warn("there is no "+units.RunnerConfig, "no GitLab Runner of this host uses the builder", tell()+" -url=https://gitlab.example.com/ -token=FILE; or nothing, if who uses it is not GitLab")}
	} else if err != nil {
		return []Finding{unknown(err)}
	}
	config, err := runner.Read(text)
	if err != nil {
		return []Finding{fail(units.RunnerConfig+": "+err.Error(), "the runner does not start with it", "mend that line")}
	}
	return judge(config, s)
}

func judge(config runner.Config, s subject) (found []Finding) {
	jobs := 0
	for _, r := range config.Runners {
		if !r.Uses(s.SSH.Local()) {
			continue
		}
		jobs += r.Limit
		bad := func(what, why string) {
			found = append(found, fail(fmt.Sprintf("runner %q: %s", r.Name, what), why, tell()+" -name="+command.Quote([]string{r.Name})))
		}
		if r.Limit == 0 || r.Limit > s.Concurrency {
			bad(fmt.Sprintf("limit is %d for %d slots", r.Limit, s.Concurrency), "jobs above the slots are refused, and fail")
		}
		if !filepath.IsAbs(r.BuildsDir) || !filepath.IsAbs(r.CacheDir) {
			bad("builds_dir and cache_dir are not both absolute", "then there is no cache, and no error")
		}
		if r.SSH.AnyHostKey {
			bad("it takes any host key", "who answers in the builder's place gets the jobs' secrets")
		}
		if r.SSH.IdentityFile != s.keys.Runner || r.SSH.KnownHosts != s.keys.KnownHosts {
			bad("identity_file or known_hosts_file are not the builder's", "it is refused, or refuses, if these have other keys")
		}
	}
	switch {
	case jobs == 0 && len(found) == 0:
		found = append(found, warn("none in "+units.RunnerConfig+" uses the builder", "no GitLab Runner of this host gives it jobs", tell()+" -url=https://gitlab.example.com/ -token=FILE"))
	case jobs > s.Concurrency && s.Start != spec.StartWarm:
		found = append(found, fail(fmt.Sprintf("the runners take %d jobs at once, for %d slots", jobs, s.Concurrency), "jobs above the slots are refused, and fail", "lower their limits, raise concurrency in the spec, or set start = \"warm\""))
	case config.Concurrent < min(jobs, s.Concurrency):
		found = append(found, warn(fmt.Sprintf("concurrent is %d for %d slots", config.Concurrent, s.Concurrency), "the other slots stay empty", tell()))
	case len(found) == 0:
		found = append(found, ok("%d jobs at once, for %d slots", jobs, s.Concurrency))
	}
	return found
}

// connection makes one as the runner does, and asks in it for what jobs need. It takes a slot.
func connection(ctx context.Context, s subject) []Finding {
	took, out, err := run(ctx, s, "bash -l", "exit 0\n")
	switch {
	case errors.Is(err, errBusy):
		return []Finding{busy()}
	case err != nil && took == 0:
		return []Finding{fail("a login fails: "+err.Error(), "so will those of the runner", "look at: "+command.Self("logs -name="+s.Name))}
	case err != nil:
		return []Finding{fail(fmt.Sprintf("a login shell that does nothing fails: %v: %q", err, out), "so does each stage of a job", "look at .profile and .bash_logout in files of the spec")}
	case len(out) > 0:
		return []Finding{fail(fmt.Sprintf("a login shell that does nothing says %q", out), "it is in each job's log", "look at .profile and .bash_logout in files of the spec")}
	}
	return []Finding{ok("a login as the runner's, and a shell, in %v", took.Round(time.Millisecond))}
}

// run runs a command in a connection of its own, with a text as its standard input. took is until
// the login; zero if there was none.
func run(ctx context.Context, s subject, command, stdin string) (took time.Duration, out []byte, err error) {
	client, took, err := dial(ctx, s)
	if err != nil {
		return 0, nil, err
	}
	defer client.Close()
	// A .profile can wait for ever.
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.Limits.StartTimeout))
	defer cancel()
	defer context.AfterFunc(ctx, func() { client.Close() })()
	session, err := client.NewSession()
	if err != nil {
		return took, nil, err
	}
	defer session.Close()
	session.Stdin = strings.NewReader(stdin)
	out, err = session.CombinedOutput(command)
	return took, out, err
}

// usedHere tells whether a runner of this host uses the builder.
func usedHere(s subject) bool {
	text, err := os.ReadFile(units.RunnerConfig)
	if err != nil {
		return false
	}
	config, err := runner.Read(text)
	return err == nil && slices.ContainsFunc(config.Runners, func(r runner.Runner) bool { return r.Uses(s.SSH.Local()) })
}

// artifacts asks in a container for the runner's own program. Where no runner of this host uses the
// builder, who does may not need it.
func artifacts(ctx context.Context, s subject) []Finding {
	bad := warn
	if usedHere(s) {
		bad = fail
	}
	const why = "jobs with artifacts or a cache lose them, and succeed all the same"
	took, out, err := run(ctx, s, "bash -lc 'gitlab-runner --version' 2>/dev/null", "")
	if errors.Is(err, errBusy) {
		return []Finding{busy()}
	}
	if err != nil && took == 0 {
		return []Finding{unknown(err)}
	}
	if err == nil {
		version, _, _ := strings.Cut(string(out), "\n")
		return []Finding{ok("gitlab-runner is in the containers: %s", strings.Join(strings.Fields(version), " "))}
	}
	for _, path := range []string{"/usr/bin/gitlab-runner", "/usr/local/bin/gitlab-runner"} {
		if _, err := os.Stat(path); err == nil {
			return []Finding{bad(path+" is there, but does not run in a container", why, "build and install a new version of the image, if it is of before this was possible; a runner that is not linked statically can't be shared")}
		}
	}
	return []Finding{bad("gitlab-runner is neither in the image nor on this host", why, "install gitlab-runner on the host: it is bound into each container")}
}

// errBusy is for a builder that has no slot for us, as jobs have them.
var errBusy = errors.New("all slots are taken")

func busy() Finding {
	return warn("all slots are taken: not tried", "it takes a connection", "try again when a job has ended")
}

// dial has the runner's order of keys, and refuses another host key.
func dial(ctx context.Context, s subject) (*ssh.Client, time.Duration, error) {
	if builders, err := status.Read(ctx, s.Name); err == nil && builders[0].Free+builders[0].Waiting == 0 {
		return nil, 0, errBusy
	}
	text, err := os.ReadFile(s.keys.Runner)
	if err != nil {
		return nil, 0, err
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", s.keys.Runner, err)
	}
	check, err := knownhosts.New(s.keys.KnownHosts)
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.Limits.StartTimeout))
	defer cancel()
	start := time.Now()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", s.SSH.Local().String())
	if err != nil {
		return nil, 0, err
	}
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	conn, channels, requests, err := ssh.NewClientConn(raw, s.SSH.Local().String(), &ssh.ClientConfig{
		User: "builder", Auth: []ssh.AuthMethod{ssh.Password(""), ssh.PublicKeys(signer)}, HostKeyCallback: check,
	})
	if err != nil {
		raw.Close()
		return nil, 0, err
	}
	return ssh.NewClient(conn, channels, requests), time.Since(start), nil
}
