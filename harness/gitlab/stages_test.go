package gitlab

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// runStages has bash read the scripts of a job as the login shell of a builder would, with a
// gitlab-runner that only says what it was asked for, or with none.
func runStages(t *testing.T, toml string, when int, helper bool) (out string, err error) {
	t.Helper()
	recipe, err := ParseRecipe(toml)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	programs := "/usr/bin:/bin"
	if helper {
		dir, err := filepath.Abs("testdata")
		if err != nil {
			t.Fatal(err)
		}
		programs = dir + ":" + programs
	}
	s := Settings{URL: "http://gitlab.example.com", BuildsDir: home + "/builds", CacheDir: home + "/cache"}
	var all strings.Builder
	for _, stage := range s.stages(recipe.Job(7))[when] {
		cmd := exec.CommandContext(t.Context(), "bash")
		cmd.Env, cmd.Dir, cmd.Stdin = []string{"HOME=" + home, "PATH=" + programs}, home, strings.NewReader(stage.script)
		text, err := cmd.CombinedOutput()
		all.Write(text)
		if err != nil {
			return all.String(), err
		}
	}
	return strings.ReplaceAll(all.String(), home, "~"), nil
}

func TestStages(t *testing.T) {
	out, err := runStages(t, `
script = ["cat $SECRET", "echo $WORD in ${PWD##*/}", "cat"]
variables = {WORD = "a 'quoted' word"}
files = {SECRET = "secret\n"}
`, before, false)
	if want := "$ cat $SECRET\nsecret\n$ echo $WORD in ${PWD##*/}\na 'quoted' word in project\n$ cat\n"; err != nil || !strings.HasSuffix(out, want) {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = runStages(t, `script = ["false | true", "echo not here"]`, before, false); err == nil || strings.Contains(out, "\nnot here") {
		t.Errorf("a failing pipe fails no stage: %v\n%s", err, out)
	}
}

// The runner's own program gets what its scripts give it; without it the job goes on.
func TestStagesHelper(t *testing.T) {
	const toml = `
script = ["true"]
cache = ["kept", "other"]
key = "k"
artifacts = ["built"]
`
	out, err := runStages(t, toml, onSuccess, true)
	for _, want := range []string{
		"cache-archiver --file ~/cache/group/project/k/cache.zip --path kept --path other\nSuccessful\n",
		"artifacts-uploader --url http://gitlab.example.com --token job-token-7 --id 7 --path built --artifact-format zip --artifact-type archive\n",
	} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("no %q: %v\n%s", want, err, out)
		}
	}
	out, err = runStages(t, toml, onSuccess, false)
	if err != nil || strings.Count(out, "Missing gitlab-runner.") != 2 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRecipeRefuses(t *testing.T) {
	if _, err := ParseRecipe("scripts = []"); err == nil {
		t.Error("an unknown key is taken")
	}
}
