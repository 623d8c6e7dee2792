// Package gitlab looks like GitLab and its runner, as far as a builder has to do with them: jobs
// as GitLab's API hands them out, and the runner's SSH executor, after its source of 19.4. Script
// gitlab-real.txtar has a real one carry out the same jobs, where there is one.
package gitlab

import (
	"fmt"
	"path"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Job is what POST /api/v4/jobs/request answers, as far as it is used here: see type Job of the
// runner's package common/spec.
type Job struct {
	ID        int        `json:"id"`
	Token     string     `json:"token"`
	JobInfo   JobInfo    `json:"job_info"`
	GitInfo   GitInfo    `json:"git_info"`
	Runner    RunnerInfo `json:"runner_info"`
	Variables []Variable `json:"variables"`
	Steps     []Step     `json:"steps"`
	Cache     []Cache    `json:"cache,omitempty"`
	Artifacts []Artifact `json:"artifacts,omitempty"`
	Needs     []Need     `json:"dependencies,omitempty"`

	AllowGitFetch bool     `json:"allow_git_fetch"`
	Features      Features `json:"features"`
}

// Features are what GitLab can do.
type Features struct {
	FailureReasons []string `json:"failure_reasons"` // that it knows; any other becomes unknown_failure
}

// JobInfo is about a job and its project.
type JobInfo struct {
	Name        string `json:"name"`
	Stage       string `json:"stage"`
	ProjectID   int    `json:"project_id"`
	ProjectName string `json:"project_name"`
}

// GitInfo is what a job checks out.
type GitInfo struct {
	RepoURL   string   `json:"repo_url"`
	Ref       string   `json:"ref"`
	Sha       string   `json:"sha"`
	BeforeSha string   `json:"before_sha"`
	RefType   string   `json:"ref_type"`
	Refspecs  []string `json:"refspecs"`
	Depth     int      `json:"depth"`
}

// RunnerInfo has the time that a job may take.
type RunnerInfo struct {
	Timeout int `json:"timeout"` // seconds
}

// Variable is one of the environment of a job.
type Variable struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Public bool   `json:"public"`
	File   bool   `json:"file,omitempty"` // the value is written to a file, and this is its name
}

// Step is "script" or "after_script".
type Step struct {
	Name         string   `json:"name"`
	Script       []string `json:"script"`
	Timeout      int      `json:"timeout"`
	When         string   `json:"when"`
	AllowFailure bool     `json:"allow_failure"`
}

// Cache is what jobs with the same key hand on to each other.
type Cache struct {
	Key    string   `json:"key"`
	Paths  []string `json:"paths"`
	Policy string   `json:"policy"` // pull, push or pull-push
	When   string   `json:"when"`
}

// Artifact is what GitLab keeps of a job.
type Artifact struct {
	Name   string   `json:"name"`
	Paths  []string `json:"paths"`
	When   string   `json:"when"`
	Type   string   `json:"artifact_type"`
	Format string   `json:"artifact_format"`
}

// Need is an earlier job whose artifacts this one gets.
type Need struct {
	ID    int    `json:"id"`
	Token string `json:"token"`
	Name  string `json:"name"`
	File  struct {
		Name string `json:"filename"`
		Size int64  `json:"size"`
	} `json:"artifacts_file"`
}

// Recipe is a job as a script of the tests writes it, in TOML.
type Recipe struct {
	Script      []string          `toml:"script"`
	AfterScript []string          `toml:"after_script"`
	Variables   map[string]string `toml:"variables"`
	Files       map[string]string `toml:"files"`   // variables of the kind file
	Repo        string            `toml:"repo"`    // URL to clone from; nothing is cloned if empty
	Sha         string            `toml:"sha"`     // its commit
	Project     string            `toml:"project"` // group/name
	Cache       []string          `toml:"cache"`   // paths
	Key         string            `toml:"key"`     // of the cache
	Artifacts   []string          `toml:"artifacts"`
	Needs       []int             `toml:"needs"`   // ids of jobs whose artifacts it gets
	Timeout     int               `toml:"timeout"` // seconds; an hour if zero
}

// ParseRecipe reads a recipe.
func ParseRecipe(text string) (r Recipe, err error) {
	decoder := toml.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	err = decoder.Decode(&r)
	return r, err
}

// Job is the recipe as GitLab would hand it out.
func (r Recipe) Job(id int) Job {
	timeout := r.Timeout
	if timeout == 0 {
		timeout = 3600
	}
	project := r.Project
	if project == "" {
		project = "group/project"
	}
	j := Job{
		ID: id, Token: token(id),
		JobInfo:  JobInfo{Name: "job", Stage: "test", ProjectID: 1, ProjectName: path.Base(project)},
		Runner:   RunnerInfo{timeout},
		Features: Features{FailureReasons: []string{"unknown_failure", "script_failure", "runner_system_failure", "job_execution_timeout"}},
		Variables: []Variable{
			{Key: "CI", Value: "true", Public: true},
			{Key: "CI_JOB_ID", Value: fmt.Sprint(id), Public: true},
			{Key: "CI_PROJECT_PATH", Value: project, Public: true},
		},
		Steps: []Step{{Name: "script", Script: r.Script, Timeout: timeout, When: "on_success"}},
	}
	for key, value := range r.Variables {
		j.Variables = append(j.Variables, Variable{Key: key, Value: value, Public: true})
	}
	for key, value := range r.Files {
		j.Variables = append(j.Variables, Variable{Key: key, Value: value, File: true})
	}
	if r.Repo == "" {
		j.Variables = append(j.Variables, Variable{Key: "GIT_STRATEGY", Value: "none", Public: true})
	} else {
		j.GitInfo = GitInfo{RepoURL: r.Repo, Ref: "main", Sha: r.Sha, BeforeSha: strings.Repeat("0", 40), RefType: "branch",
			Refspecs: []string{"+refs/heads/main:refs/remotes/origin/main"}, Depth: 20}
	}
	if len(r.AfterScript) > 0 {
		j.Steps = append(j.Steps, Step{Name: "after_script", Script: r.AfterScript, Timeout: 300, When: "always", AllowFailure: true})
	}
	if len(r.Cache) > 0 {
		key := r.Key
		if key == "" {
			key = "default"
		}
		j.Cache = []Cache{{Key: key, Paths: r.Cache, Policy: "pull-push", When: "on_success"}}
	}
	if len(r.Artifacts) > 0 {
		j.Artifacts = []Artifact{{Name: "artifacts", Paths: r.Artifacts, When: "on_success", Type: "archive", Format: "zip"}}
	}
	for _, id := range r.Needs {
		need := Need{ID: id, Token: token(id), Name: fmt.Sprintf("job-%d", id)}
		need.File.Name, need.File.Size = "artifacts.zip", 1
		j.Needs = append(j.Needs, need)
	}
	return j
}

// token is a job's own, which its artifacts are got with, too.
func token(id int) string { return fmt.Sprintf("job-token-%d", id) }

// Step is one of a job, if it has it.
func (j Job) Step(name string) (Step, bool) {
	for _, s := range j.Steps {
		if s.Name == name {
			return s, true
		}
	}
	return Step{}, false
}

// Variable is the value of a variable, or empty.
func (j Job) Variable(key string) string {
	for _, v := range j.Variables {
		if v.Key == key {
			return v.Value
		}
	}
	return ""
}
