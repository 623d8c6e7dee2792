//go:build mage

// A clean, throw-away machine for every SSH connection: images, units, and a lab that proves them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/magefile/mage/mg"

	"ephemeral-builder/harness"
	"ephemeral-builder/harness/bench"
	"ephemeral-builder/harness/deb"
	"ephemeral-builder/harness/simulate/study"
	"ephemeral-builder/image"
	"ephemeral-builder/image/cache"
	lockfile "ephemeral-builder/image/lock"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/release"
	"ephemeral-builder/image/reproduce"
	specfile "ephemeral-builder/image/spec"
	"ephemeral-builder/units"
	"ephemeral-builder/units/doctor"
	fleetfile "ephemeral-builder/units/fleet"
	"ephemeral-builder/units/logs"
	"ephemeral-builder/units/status"
)

// Builds images from specs: dist/NAME_VERSION_ARCH.tar.zst, what describes it, and SHA256SUMS.
func Build(ctx context.Context,
	spec *string, // spec file, or a folder of them (default: ephemeral-builder.toml if there is one)
	version *string, // version of the images (default: time of the current commit)
	lock *string, // lock file of an image: build exactly its packages
	out *string, // folder for the results (default: dist)
) error {
	specs, err := specfile.LoadAll(value(spec, ""))
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		images, err := image.BuildDefault(ctx, rep, specs, value(version, ""), value(lock, ""), value(out, "dist"))
		for _, img := range images {
			rep.Note("%s", img.Tarball)
		}
		return err
	})
}

// Publishes built images: a folder that a plain web server can serve, signed, with all versions.
func Release(ctx context.Context,
	from *string, // folder of the builds (default: dist)
	out *string, // folder to publish in (default: public)
	keep *int, // versions to keep of each image (default: all)
	key *string, // file with the OpenPGP key to sign with (default: the armored key in EPHEMERAL_BUILDER_SIGNING_KEY)
	adopt *bool, // sign what is there already, though another key or none has signed it
	unsigned *bool, // publish without a signature
	url *string, // where the folder will be served, for transfer files of systemd-sysupdate
	push *string, // OCI repository to push to as well, such as registry.example.org/group
) error {
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		return release.PublishDefault(ctx, rep, release.Options{
			From: value(from, "dist"), Out: value(out, "public"), Keep: value(keep, 0),
			Adopt: value(adopt, false), Unsigned: value(unsigned, false),
		}, value(key, ""), value(url, ""), value(push, ""))
	})
}

// Builds an image twice, the second time under other circumstances, and compares.
func Reproduce(ctx context.Context,
	spec *string, // spec file (default: ephemeral-builder.toml if there is one)
	lock *string, // lock file of an image: build exactly its packages
) error {
	s, err := load(spec)
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		program, err := os.Executable()
		if err != nil {
			return err
		}
		digest, err := reproduce.Run(ctx, rep, reproduce.Options{Spec: s, SpecFile: value(spec, ""), Lock: value(lock, ""), Program: program})
		if err != nil {
			return err
		}
		rep.Note("%s is reproducible: both tars have the sha256 %s", s.Name, digest)
		return nil
	})
}

// Shows what a fresh build would change, and exits with 2 if there is anything.
func Outdated(ctx context.Context,
	spec *string, // spec file (default: ephemeral-builder.toml if there is one)
	since *string, // lock, manifest, or folder with images of which the newest counts (default: dist)
) error {
	s, err := load(spec)
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		changes, err := image.Outdated(ctx, rep, s, value(since, "dist"), cache.Dir())
		if err != nil || len(changes) == 0 {
			return err
		}
		fmt.Print(lockfile.Table(changes))
		return mg.Fatalf(2, "%d of the packages differ: build a new version with: go tool mage build", len(changes))
	})
}

// Installs the newest image and its units on this host, and starts the socket.
func Install(ctx context.Context,
	spec *string, // spec file (default: ephemeral-builder.toml if there is one)
	from *string, // folder with the image, or URL of a published one (default: dist, or what this host has)
	version *string, // version of the image (default: the newest)
	keyring *string, // the publisher's OpenPGP key (default: /etc/systemd/import-pubring.gpg)
	autoUpdate *bool, // look for later images every hour, where this one came from (default: as before)
	drain *bool, // wait until no container has an older image
) error {
	s, err := load(spec)
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		installed, err := units.Install(ctx, rep, units.Options{
			Spec: s, From: value(from, ""), Version: value(version, ""), Keyring: value(keyring, ""), AutoUpdate: autoUpdate, Drain: value(drain, false),
		})
		if err != nil {
			return err
		}
		text, err := installed.Text(s)
		rep.Note("%s", text)
		return err
	})
}

// Goes back to the image before: the next connection gets it.
func Rollback(ctx context.Context,
	spec *string, // spec file (default: ephemeral-builder.toml, or what the builder was installed with)
	name *string, // of the builder, without a spec file
	drain *bool, // wait until no container has another image
) error {
	s, err := here(spec)
	if name != nil && spec == nil {
		s, err = units.InstalledSpec(*name)
	}
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		from, to, err := units.Rollback(ctx, rep, s, value(drain, false))
		if to != "" {
			rep.Note("new connections get version %s, and not %s", to, from)
		}
		return err
	})
}

// Drains this host: balancers in front of it send it nothing new, until -end.
func Drain(
	name *string, // of the builder (default: ephemeral-builder)
	end *bool, // balancers send it what comes, again
) error {
	return units.SetDrained(value(name, specfile.Default().Name), !value(end, false))
}

// Uninstalls image and units from this host, and says what stays.
func Uninstall(ctx context.Context,
	spec *string, // spec file (default: ephemeral-builder.toml if there is one)
	name *string, // of the builder, where there is no spec any more (default: the spec's)
) error {
	s, err := load(spec)
	if err != nil {
		return err
	}
	s.Name = value(name, s.Name)
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		gone, err := units.Uninstall(ctx, rep, s)
		if err != nil {
			return err
		}
		rep.Note("%s", gone.Text())
		return nil
	})
}

// Tells the GitLab Runner of this host about the builder, in its config.toml.
func Runner(ctx context.Context,
	spec *string, // spec file (default: ephemeral-builder.toml, or what the builder was installed with)
	url *string, // where GitLab is (default: what the runner has)
	token *string, // file with the runner's token, glrt-... (default: CI_SERVER_TOKEN, or what the runner has)
	name *string, // of the runner (default: the spec's)
	limit *int, // jobs at once (default: the spec's concurrency)
	config *string, // the runner's configuration (default: /etc/gitlab-runner/config.toml)
	restart *bool, // the runner's service; it reads a changed file by itself within seconds
) error {
	s, err := here(spec)
	if err != nil {
		return err
	}
	text, err := units.ConfigureRunner(ctx, units.RunnerOptions{
		Spec: s, Config: value(config, units.RunnerConfig), Name: value(name, ""), Limit: value(limit, 0),
		URL: value(url, ""), Token: value(token, ""), Restart: value(restart, false),
	})
	fmt.Print(text)
	return err
}

// Shows the builders of this host, and what runs.
func Status(ctx context.Context,
	name *string, // of the builder (default: all)
	watch *bool, // again every two seconds, in place
	json *bool, // for programs
) error {
	if value(watch, false) {
		return status.Watch(ctx, os.Stdout, value(name, ""))
	}
	builders, err := status.Read(ctx, value(name, ""))
	if err != nil {
		return err
	}
	return status.Print(os.Stdout, builders, value(json, false))
}

// Looks for all that would keep the builder from serving, and exits with 1 if there is anything.
func Doctor(ctx context.Context,
	spec *string, // spec file (default: ephemeral-builder.toml, or what the builder was installed with)
	json *bool, // for programs
) error {
	s, err := here(spec)
	if err != nil {
		return err
	}
	found, err := doctor.Run(ctx, s)
	if err != nil {
		return err
	}
	if err := doctor.Print(os.Stdout, found, value(json, false)); err != nil {
		return err
	}
	if n := doctor.Failed(found); n > 0 {
		return mg.Fatalf(1, "%d of %d checks failed", n, len(found))
	}
	return nil
}

// Shows the log of one container, and follows it to its end.
func Logs(ctx context.Context,
	name *string, // of the builder (default: ephemeral-builder)
	job *string, // its slot, the port of its client, its machine or its unit (default: the last that was served)
) error {
	return logs.Show(ctx, os.Stdout, value(name, specfile.Default().Name), value(job, ""))
}

// Opens a shell in a container that runs.
func Shell(ctx context.Context,
	spec *string, // spec file (default: ephemeral-builder.toml, or what the builder was installed with)
	job *string, // slot, client's port, machine or unit of the container (default: the only one)
	root *bool, // as its root, and not as the builder
	command *string, // what to run (default: a login shell)
) error {
	s, err := here(spec)
	if err != nil {
		return err
	}
	c, err := status.Find(ctx, s.Name, value(job, ""))
	if err != nil {
		return err
	}
	return status.Shell(c, s, value(root, false), value(command, ""))
}

// Makes a Debian package of this program, for hosts without Go: dist/ephemeral-builder_VERSION_ARCH.deb.
func Package(ctx context.Context,
	version *string, // of the package (default: time of the current commit)
	out *string, // folder for it (default: dist)
) error {
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		_, err := deb.Make(ctx, rep, deb.Options{Version: value(version, ""), Out: value(out, "dist")})
		return err
	})
}

// Checks form: gofmt, vet with and without -tags mage, staticcheck, shellcheck, perl.
func Check(ctx context.Context) error {
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error { return harness.Check(ctx, rep) })
}

// Tests everything: quick Go tests, then the scripts of testdata/ against a throw-away host.
func Test(ctx context.Context,
	kind *string, // kind of lab: vm, container or fleet (default: vm)
	suite *string, // Debian suite of the lab host: trixie or bookworm (default: trixie)
	full *bool, // on both suites, one after the other
	run *string, // only scripts whose name matches this regular expression
	units *string, // tutorial: attack the units of the tutorial instead, with the hostile scripts, and show what succeeds
) error {
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		return harness.Test(ctx, rep, harness.TestOptions{
			Kind: value(kind, "vm"), Suite: value(suite, ""), Full: value(full, false), Run: value(run, ""), Units: value(units, ""),
		})
	})
}

// Lab is a throw-away host with the image installed, to play with.
type Lab mg.Namespace

// Up starts a lab and leaves it running.
func (Lab) Up(ctx context.Context,
	kind *string, // vm, container or fleet (default: vm)
	suite *string, // Debian suite of the lab host: trixie or bookworm (default: trixie)
	spec *string, // spec file (default: ephemeral-builder.toml if there is one)
	json *bool, // print addresses and keys as JSON
) error {
	s, err := load(spec)
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		return harness.Up(ctx, rep, os.Stdout, harness.UpOptions{Kind: value(kind, "vm"), Suite: value(suite, "trixie"), Spec: s, JSON: value(json, false)})
	})
}

// Exec runs a command as root on the lab host, or on the balancer of a fleet.
func (Lab) Exec(command string) error { return harness.Exec(command) }

// Ssh opens a builder session: a container of its own on the lab host.
func (Lab) Ssh(
	command *string, // what to run (default: a login shell)
) error {
	return harness.SSH(value(command, ""))
}

// Down ends the lab and removes it.
func (Lab) Down(ctx context.Context) error { return harness.Down(ctx) }

// Fleet is more hosts than one, behind a balancer: see fleet.toml in the README.
type Fleet mg.Namespace

// Write writes what balancer and runners of a fleet need: HAProxy's configuration, the runners', and
// known_hosts. Also: fleet.
func (Fleet) Write(ctx context.Context,
	fleet *string, // file that describes it (default: fleet.toml)
	out *string, // folder for the results (default: fleet)
	url *string, // where GitLab is
	token *string, // file with the runner's token, glrt-...
	offline *bool, // don't ask the hosts whether they are as the file says
) error {
	f, err := loadFleet(fleet)
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		text, err := f.Write(ctx, rep, fleetfile.Options{
			Dir: value(out, "fleet"), URL: value(url, ""), Token: value(token, ""), Offline: value(offline, false),
		})
		fmt.Print(text)
		return err
	})
}

// Certify signs the hosts' keys, so that runners know all of them by one authority, and lets the runners in.
func (Fleet) Certify(ctx context.Context,
	fleet *string, // file that describes it (default: fleet.toml)
	out *string, // folder with its keys (default: fleet)
	own *bool, // no certificates: hosts are known by their own keys
) error {
	f, err := loadFleet(fleet)
	if err != nil {
		return err
	}
	done, err := f.Certify(ctx, value(out, "fleet"), value(own, false))
	for _, line := range done {
		fmt.Println(line)
	}
	return err
}

// Status shows the hosts of a fleet: versions, jobs, free slots, and what the balancer thinks of them.
func (Fleet) Status(ctx context.Context,
	fleet *string, // file that describes it (default: fleet.toml)
	json *bool, // for programs
) error {
	f, err := loadFleet(fleet)
	if err != nil {
		return err
	}
	return f.Status(ctx).Print(os.Stdout, value(json, false))
}

// Drain has the balancer send a host nothing new, until -end.
func (Fleet) Drain(ctx context.Context,
	host string, // name of the host
	fleet *string, // file that describes it (default: fleet.toml)
	end *bool, // it gets what comes, again
	wait *bool, // until no job runs there
) error {
	f, err := loadFleet(fleet)
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		return f.Drain(ctx, rep, host, value(end, false), value(wait, false))
	})
}

// Update has the hosts install now what is published, canaries first, and stops where it does not serve.
func (Fleet) Update(ctx context.Context,
	fleet *string, // file that describes it (default: fleet.toml)
	host *string, // only this one
) error {
	f, err := loadFleet(fleet)
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		return f.Update(ctx, rep, value(host, ""), rep.Note)
	})
}

// Rollback goes back to the image before, on one host after the other.
func (Fleet) Rollback(ctx context.Context,
	fleet *string, // file that describes it (default: fleet.toml)
	host *string, // only this one
) error {
	f, err := loadFleet(fleet)
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		return f.Rollback(ctx, value(host, ""), rep.Note)
	})
}

func loadFleet(path *string) (fleetfile.Fleet, error) {
	return fleetfile.Load(value(path, fleetfile.File))
}

// Cache holds downloads and what was built from them.
type Cache mg.Namespace

// Show shows what the cache takes.
func (Cache) Show() error {
	text, err := cache.Describe(cache.Dir())
	fmt.Print(text)
	return err
}

// Prune removes what was not used for longest.
func (Cache) Prune(
	max *string, // leave at most so much, such as 2G (default: 10G)
) error {
	freed, err := cache.PruneTo(cache.Dir(), value(max, ""))
	fmt.Printf("%d MiB are free now\n", freed>>20)
	return err
}

// Bench measures side by side with what others use for the same purpose.
type Bench mg.Namespace

// Build compares cold builds of an image with mmdebstrap: test-results/bench-build.html.
func (Bench) Build(ctx context.Context,
	spec *string, // spec file (default: ephemeral-builder.toml if there is one)
	runs *int, // builds of each kind (default: 3)
) error {
	s, err := load(spec)
	if err != nil {
		return err
	}
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		return bench.Build(ctx, rep, bench.Options{Spec: s, Runs: value(runs, 3), Out: harness.ResultsDir})
	})
}

// All measures connections, where their time goes, many containers, and a job: test-results/bench.html. Also: bench.
func (Bench) All(ctx context.Context,
	kind *string, // kind of lab: vm or container (default: container)
	suite *string, // Debian suite of the lab host: trixie or bookworm (default: trixie)
	rounds *int, // with one client; more clients have a fourth (default: 60)
	compare *string, // bench.json of an older run: show what has changed
) error {
	return measure(ctx, kind, suite, rounds, compare, harness.BenchParts...)
}

// Connections compares logins with docker, podman and a bare sshd.
func (Bench) Connections(ctx context.Context,
	kind *string, // kind of lab: vm or container (default: container)
	suite *string, // Debian suite of the lab host: trixie or bookworm (default: trixie)
	rounds *int, // with one client; more clients have a fourth (default: 60)
	compare *string, // bench.json of an older run: show what has changed
) error {
	return measure(ctx, kind, suite, rounds, compare, "connections")
}

// Trace shows where the milliseconds of one connection go, by the kernel's tracepoints.
func (Bench) Trace(ctx context.Context,
	kind *string, // kind of lab: vm or container (default: container)
	suite *string, // Debian suite of the lab host: trixie or bookworm (default: trixie)
	rounds *int, // connections (default: 60)
) error {
	return measure(ctx, kind, suite, rounds, nil, "trace")
}

// Growth shows what 1, 2, 4, up to 256 containers cost.
func (Bench) Growth(ctx context.Context,
	kind *string, // kind of lab: vm or container (default: container)
	suite *string, // Debian suite of the lab host: trixie or bookworm (default: trixie)
) error {
	return measure(ctx, kind, suite, nil, nil, "growth")
}

// Job times a clone and a build in a container, in docker's and podman's, and without one.
func (Bench) Job(ctx context.Context,
	kind *string, // kind of lab: vm or container (default: container)
	suite *string, // Debian suite of the lab host: trixie or bookworm (default: trixie)
) error {
	return measure(ctx, kind, suite, nil, nil, "job")
}

// Fleet simulates many hosts, and says how many slots a CI needs: test-results/fleet.html.
func (Bench) Fleet(ctx context.Context,
	jobs *int, // on a working day (default: 2000)
	hosts *int, // how many (default: as the rule of thumb says)
	slots *int, // of each host (default: 8)
	median *time.Duration, // of the length of jobs (default: 12m, as published for a GitLab)
	mean *time.Duration, // of the length of jobs (default: 26m44s, as published there)
	pipeline *float64, // jobs that come at once, the mean (default: 8)
	peak *float64, // of the busiest moment, to the mean of the day, 1 to 3 (default: 2.4)
	start *string, // on-demand or warm (default: on-demand)
	seed *int, // of what is drawn (default: 1)
	from *string, // bench.json that says what a host takes (default: the README's figures)
) error {
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		return harness.Simulate(ctx, rep, study.Options{
			Jobs: value(jobs, 2000), Hosts: value(hosts, 0), Slots: value(slots, 8), Start: value(start, "on-demand"), Seed: value(seed, 1), From: value(from, ""),
			Median: value(median, 0), Mean: value(mean, 0), Pipeline: value(pipeline, 0), Peak: value(peak, 0),
		})
	})
}

// measure is what the benchmarks of connections have in common.
func measure(ctx context.Context, kind, suite *string, rounds *int, compare *string, parts ...string) error {
	return report(ctx, func(ctx context.Context, rep *progress.Reporter) error {
		return harness.Bench(ctx, rep, harness.BenchOptions{
			Kind: value(kind, "container"), Suite: value(suite, "trixie"), Rounds: value(rounds, 60), Compare: value(compare, ""), Parts: parts,
		})
	})
}

// Aliases are other names of targets.
var Aliases = map[string]any{"bench": Bench.All, "cache": Cache.Show, "fleet": Fleet.Write}

// report runs work with a progress reporter on standard error. Being told to end is the
// same as Ctrl-C, which mage itself handles.
func report(ctx context.Context, work func(context.Context, *progress.Reporter) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	rep := progress.New(os.Stderr)
	defer rep.Close()
	err := work(ctx, rep)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return mg.Fatal(130, "interrupted: run the same command again") // 128 and SIGINT, as shells have it
	}
	return err
}

// here reads the spec that a flag names, or that is in this folder, or that the builder of this host
// was installed with.
func here(path *string) (specfile.Spec, error) {
	if _, err := os.Stat(specfile.File); path == nil && err != nil {
		if s, err := units.InstalledSpec(specfile.Default().Name); err == nil {
			return s, nil
		}
	}
	return load(path)
}

// load reads a spec, named by a flag or not.
func load(path *string) (specfile.Spec, error) { return specfile.Load(value(path, "")) }

// value is what a flag was set to, or its default.
func value[T any](flag *T, otherwise T) T {
	if flag == nil {
		return otherwise
	}
	return *flag
}
