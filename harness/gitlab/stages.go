package gitlab

import (
	"fmt"
	"path"
	"strings"

	"ephemeral-builder/image/command"
)

// Settings are those of a runner that the scripts of its jobs depend on.
type Settings struct {
	URL                 string // of GitLab, as jobs reach it
	BuildsDir, CacheDir string
}

// stage is a script that one session of "bash -l" reads from its standard input.
type stage struct {
	name, script string
}

// when a stage takes place.
const (
	before    = iota // until one fails
	after            // after_script
	onSuccess        // caches and artifacts
	always
)

// stages are those of a job, by when they take place. Empty ones are left out, as the runner does.
func (s Settings) stages(j Job) map[int][]stage {
	w := writer{Settings: s, job: j}
	all := map[int][]stage{}
	add := func(when int, name string, lines ...string) {
		if len(lines) > 0 {
			all[when] = append(all[when], stage{name, w.script(name, lines)})
		}
	}
	add(before, "prepare_script", `echo "Running on $(hostname)..."`)
	add(before, "get_sources", w.sources()...)
	add(before, "restore_cache", w.caches("cache-extractor", "Checking cache for %s...")...)
	add(before, "download_artifacts", w.needs()...)
	if step, ok := j.Step("script"); ok {
		add(before, "step_script", w.user(step)...)
	}
	if step, ok := j.Step("after_script"); ok {
		add(after, "after_script", w.user(step)...)
	}
	add(onSuccess, "archive_cache", w.caches("cache-archiver", "Creating cache %s...")...)
	add(onSuccess, "upload_artifacts_on_success", w.artifacts()...)
	add(always, "cleanup_file_variables", "rm -rf "+quote(w.tmp()))
	return all
}

// writer writes the scripts of one job.
type writer struct {
	Settings
	job Job
}

func quote(words ...string) string { return command.Quote(words) }

// dir is where the project is checked out: builds_dir/TOKEN/N/GROUP/PROJECT.
func (w writer) dir() string {
	return path.Join(w.BuildsDir, "lookalik", "0", w.job.Variable("CI_PROJECT_PATH"))
}

func (w writer) tmp() string { return w.dir() + ".tmp" }

func (w writer) archive(key string) string {
	return path.Join(w.CacheDir, w.job.Variable("CI_PROJECT_PATH"), key, "cache.zip")
}

// script is what bash reads. What it runs reads nothing of it: its standard input is empty.
func (w writer) script(name string, lines []string) string {
	var text strings.Builder
	text.WriteString("set -eo pipefail\nset +o noclobber\n")
	fmt.Fprintf(&text, "mkdir -p %s\n", quote(w.tmp()))
	for _, v := range w.job.Variables {
		value := v.Value
		if v.File {
			value = path.Join(w.tmp(), v.Key)
			fmt.Fprintf(&text, "printf %%s %s >%s\n", quote(v.Value), quote(value))
		}
		fmt.Fprintf(&text, "export %s=%s\n", v.Key, quote(value))
	}
	for _, v := range [][2]string{{"CI_PROJECT_DIR", w.dir()}, {"CI_JOB_TOKEN", w.job.Token}, {"CI_SERVER_URL", w.URL}} {
		fmt.Fprintf(&text, "export %s=%s\n", v[0], quote(v[1]))
	}
	body := strings.Join(lines, "\n")
	if name != "get_sources" && name != "prepare_script" {
		body = fmt.Sprintf("mkdir -p %s\ncd %[1]s\n%s", quote(w.dir()), body)
	}
	fmt.Fprintf(&text, "(set -eo pipefail; eval %s) </dev/null\nexit 0\n", quote(body))
	return text.String()
}

func (w writer) user(step Step) (lines []string) {
	for _, line := range step.Script {
		lines = append(lines, "echo "+quote("$ "+line), line)
	}
	return lines
}

func (w writer) sources() []string {
	if w.job.Variable("GIT_STRATEGY") == "none" {
		return nil
	}
	git := w.job.GitInfo
	return []string{
		"rm -rf " + quote(w.dir()),
		"git -c init.defaultBranch=none init --quiet " + quote(w.dir()),
		"cd " + quote(w.dir()),
		"git remote add origin " + quote(git.RepoURL),
		fmt.Sprintf("git fetch --quiet --depth %d origin %s", git.Depth, quote(git.Refspecs...)),
		"git -c advice.detachedHead=false checkout --force --quiet " + quote(git.Sha),
		"git clean -ffdx --quiet",
		`echo "Checking out $(git rev-parse --short=8 HEAD)..."`,
	}
}

// guarded is what the runner's own binary does in the container, or a word that it is missing, and
// the job goes on.
func guarded(purpose, line string) string {
	return fmt.Sprintf("if gitlab-runner --version >/dev/null 2>&1; then\n%s\nelse\necho 'Missing gitlab-runner. %s is disabled.'\nfi", line, purpose)
}

// What goes wrong with a cache fails no job.
func (w writer) caches(verb, says string) (lines []string) {
	for _, c := range w.job.Cache {
		call := []string{"gitlab-runner", verb, "--file", w.archive(c.Key)}
		purpose := "Extracting cache"
		if verb == "cache-archiver" {
			purpose = "Creating cache"
			for _, p := range c.Paths {
				call = append(call, "--path", p)
			}
		}
		lines = append(lines, "echo "+quote(fmt.Sprintf(says, c.Key)),
			guarded(purpose, fmt.Sprintf("if %s; then echo Successful; else echo 'Failed: %s'; fi", quote(call...), purpose)))
	}
	return lines
}

func (w writer) artifacts() (lines []string) {
	for _, a := range w.job.Artifacts {
		call := []string{"gitlab-runner", "artifacts-uploader", "--url", w.URL, "--token", w.job.Token, "--id", fmt.Sprint(w.job.ID)}
		for _, p := range a.Paths {
			call = append(call, "--path", p)
		}
		call = append(call, "--artifact-format", a.Format, "--artifact-type", a.Type)
		lines = append(lines, "echo 'Uploading artifacts...'", guarded("Uploading artifacts", quote(call...)))
	}
	return lines
}

func (w writer) needs() (lines []string) {
	for _, n := range w.job.Needs {
		call := []string{"gitlab-runner", "artifacts-downloader", "--url", w.URL, "--token", n.Token, "--id", fmt.Sprint(n.ID)}
		lines = append(lines, "echo 'Downloading artifacts...'", guarded("Artifacts downloading", quote(call...)))
	}
	return lines
}
