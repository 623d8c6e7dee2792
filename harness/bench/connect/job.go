package connect

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"ephemeral-builder/harness/bench/plan"
)

// Job is one that was done: a clone of a repository and the build of what is in it.
type Job struct {
	Contender string        `json:"contender"`
	Round     int           `json:"round"`
	Clone     time.Duration `json:"clone"`
	Build     time.Duration `json:"build"`
	All       time.Duration `json:"all"` // from the dial to the end
	Error     string        `json:"error,omitempty"`
}

// NewJobs are those of samples, whose output is the nanoseconds of clone and build.
func NewJobs(samples []plan.Sample) (jobs []Job, err error) {
	for _, s := range samples {
		j := Job{Contender: s.Contender, Round: s.Round, All: s.Done, Error: s.Error}
		if j.Error == "" {
			if _, err := fmt.Sscan(s.Output, (*int64)(&j.Clone), (*int64)(&j.Build)); err != nil {
				return nil, fmt.Errorf("the job on %s printed %q: %w", s.Contender, s.Output, err)
			}
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// JobRow is a contender in the table of jobs: seconds, and ratios to the job without a container
// in the same round.
type JobRow struct {
	Contender
	Clone, Build, All Estimate
	ToFloor           Estimate // of All
}

func (r *Result) jobRows() (rows []JobRow) {
	for _, c := range r.Contenders {
		var clone, build, all, ratios []float64
		for _, j := range r.Jobs {
			if j.Contender != c.Name || j.Error != "" {
				continue
			}
			clone, build, all = append(clone, j.Clone.Seconds()), append(build, j.Build.Seconds()), append(all, j.All.Seconds())
			for _, floor := range r.Jobs {
				if floor.Contender == Floor && floor.Round == j.Round && floor.Error == "" {
					ratios = append(ratios, j.All.Seconds()/floor.All.Seconds())
				}
			}
		}
		if len(all) > 0 {
			rows = append(rows, JobRow{c, estimate(clone), estimate(build), estimate(all), estimate(ratios)})
		}
	}
	return rows
}

func (r *Result) jobsText() string {
	if len(r.Jobs) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\na job: a clone of 50 MB and the build of 2000 files of C, seconds\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\tclone\tbuild\tall\tto the floor\t\t\n")
	for _, row := range r.jobRows() {
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f-%.2f\t\n", row.Name, row.Clone.Median, row.Build.Median, row.All.Median, row.ToFloor.Median, row.ToFloor.Low, row.ToFloor.High)
	}
	w.Flush()
	for _, j := range r.Jobs {
		if j.Error != "" {
			fmt.Fprintf(&b, "%s: a job failed: %s\n", j.Contender, j.Error)
		}
	}
	return b.String()
}
