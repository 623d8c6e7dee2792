// Package coordinator speaks GitLab's side of the runner's protocol: jobs, their logs and their
// artifacts. See network/gitlab.go and network/trace.go of the runner for what it wants.
package coordinator

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"ephemeral-builder/harness/gitlab"
)

// Record is what is known of a job.
type Record struct {
	Job       gitlab.Job `json:"job"`
	State     string     `json:"state"` // pending, running, success or failed
	Reason    string     `json:"reason,omitempty"`
	ExitCode  int        `json:"exit_code,omitempty"`
	Trace     string     `json:"trace"`
	Artifacts []byte     `json:"artifacts,omitempty"`
	Canceled  string     `json:"canceled,omitempty"` // canceled or canceling
}

// Server is a GitLab of one project. The zero value has no jobs.
type Server struct {
	mu   sync.Mutex
	jobs []*Record
}

// Handler answers the runner, and the tests: POST /lab/jobs takes a recipe, GET /lab/jobs/ID
// gives the record, POST /lab/jobs/ID/cancel?how=canceled ends it.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v4/runners/verify", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusOK, map[string]any{"id": 1, "token": r.Header.Get("RUNNER-TOKEN"), "token_expires_at": nil})
	})
	mux.HandleFunc("POST /api/v4/jobs/request", s.request)
	mux.HandleFunc("PATCH /api/v4/jobs/{id}/trace", s.with(true, s.trace))
	mux.HandleFunc("PUT /api/v4/jobs/{id}", s.with(false, s.update))
	mux.HandleFunc("POST /api/v4/jobs/{id}/artifacts", s.with(true, s.upload))
	mux.HandleFunc("GET /api/v4/jobs/{id}/artifacts", s.with(true, s.download))
	mux.HandleFunc("POST /lab/jobs", s.add)
	mux.HandleFunc("GET /lab/jobs/{id}", s.with(false, func(w http.ResponseWriter, _ *http.Request, record *Record) {
		reply(w, http.StatusOK, record)
	}))
	mux.HandleFunc("POST /lab/jobs/{id}/cancel", s.with(false, func(w http.ResponseWriter, r *http.Request, record *Record) {
		record.Canceled = r.FormValue("how")
		w.WriteHeader(http.StatusNoContent)
	}))
	return mux
}

func reply(w http.ResponseWriter, status int, what any) {
	w.Header().Set("Content-Type", "application/json") // or the runner refuses it
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(what)
}

// with finds the job of a request, whose token must be the job's where asked for.
func (s *Server) with(token bool, handle func(http.ResponseWriter, *http.Request, *Record)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var id int
		fmt.Sscan(r.PathValue("id"), &id)
		s.mu.Lock()
		defer s.mu.Unlock()
		if id < 1 || id > len(s.jobs) {
			http.Error(w, "no such job", http.StatusNotFound)
			return
		}
		record := s.jobs[id-1]
		if token && r.Header.Get("JOB-TOKEN") != record.Job.Token {
			http.Error(w, "not the job's token", http.StatusForbidden)
			return
		}
		handle(w, r, record)
	}
}

func (s *Server) add(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	if err == nil {
		var recipe gitlab.Recipe
		if recipe, err = gitlab.ParseRecipe(string(text)); err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			record := &Record{Job: recipe.Job(len(s.jobs) + 1), State: "pending"}
			if r.FormValue("taken") != "" { // for who carries it out without asking for it
				record.State = "running"
			}
			s.jobs = append(s.jobs, record)
			reply(w, http.StatusCreated, record.Job)
			return
		}
	}
	http.Error(w, err.Error(), http.StatusBadRequest)
}

// ready tells whether the jobs whose artifacts a job needs have succeeded.
func (s *Server) ready(job gitlab.Job) bool {
	for _, need := range job.Needs {
		if need.ID < 1 || need.ID > len(s.jobs) || s.jobs[need.ID-1].State != "success" {
			return false
		}
	}
	return true
}

// request gives the first job that nobody has: 201 with one, 204 without.
func (s *Server) request(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, record := range s.jobs {
		if record.State == "pending" && record.Canceled == "" && s.ready(record.Job) {
			record.State = "running"
			reply(w, http.StatusCreated, record.Job)
			return
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

// trace appends to a job's log, from where it ends.
func (s *Server) trace(w http.ResponseWriter, r *http.Request, record *Record) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var from, to int
	fmt.Sscanf(r.Header.Get("Content-Range"), "%d-%d", &from, &to)
	w.Header().Set("X-GitLab-Trace-Update-Interval", "1")
	w.Header().Set("Job-Status", record.status())
	if from != len(record.Trace) {
		w.Header().Set("Range", fmt.Sprintf("0-%d", len(record.Trace)))
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	record.Trace += string(text)
	w.Header().Set("Range", fmt.Sprintf("0-%d", len(record.Trace)))
	w.WriteHeader(http.StatusAccepted)
}

// status is what Job-Status tells the runner.
func (r *Record) status() string {
	if r.Canceled != "" {
		return r.Canceled
	}
	return "running"
}

func (s *Server) update(w http.ResponseWriter, r *http.Request, record *Record) {
	var said struct {
		Token    string `json:"token"`
		State    string `json:"state"`
		Reason   string `json:"failure_reason"`
		ExitCode int    `json:"exit_code"`
		Output   struct {
			Bytesize int `json:"bytesize"`
		} `json:"output"`
	}
	if err := json.NewDecoder(r.Body).Decode(&said); err != nil || said.Token != record.Job.Token {
		http.Error(w, "no job and token", http.StatusForbidden)
		return
	}
	w.Header().Set("Job-Status", record.status())
	if said.State != "running" && said.Output.Bytesize > len(record.Trace) {
		w.WriteHeader(http.StatusPreconditionFailed) // and the log comes from its beginning
		record.Trace = ""
		return
	}
	record.State, record.Reason, record.ExitCode = said.State, said.Reason, said.ExitCode
	w.WriteHeader(http.StatusOK)
}

func (s *Server) upload(w http.ResponseWriter, r *http.Request, record *Record) {
	file, _, err := r.FormFile("file")
	if err == nil {
		defer file.Close()
		record.Artifacts, err = io.ReadAll(file)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	reply(w, http.StatusCreated, map[string]any{"id": record.Job.ID})
}

func (s *Server) download(w http.ResponseWriter, _ *http.Request, record *Record) {
	if record.Artifacts == nil {
		http.Error(w, "no artifacts", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/zip")
	_, _ = io.Copy(w, strings.NewReader(string(record.Artifacts)))
}
