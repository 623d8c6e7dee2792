package coordinator

import (
	"bytes"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// api is a server with a job in it.
type api struct {
	t   *testing.T
	url string
}

func (a api) call(method, path, body string, header map[string]string) (status int, text string, answered http.Header) {
	a.t.Helper()
	request, err := http.NewRequestWithContext(a.t.Context(), method, a.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		a.t.Fatal(err)
	}
	for key, value := range header {
		request.Header.Set(key, value)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		a.t.Fatal(err)
	}
	defer answer.Body.Close()
	read, err := io.ReadAll(answer.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return answer.StatusCode, string(read), answer.Header
}

func (a api) want(status int, method, path, body string, header map[string]string) string {
	a.t.Helper()
	got, text, _ := a.call(method, path, body, header)
	if got != status {
		a.t.Errorf("%s %s is answered with %d, want %d: %s", method, path, got, status, text)
	}
	return text
}

func TestJob(t *testing.T) {
	server := httptest.NewServer(new(Server).Handler())
	defer server.Close()
	a := api{t, server.URL}
	token := map[string]string{"JOB-TOKEN": "job-token-1"}

	a.want(204, "POST", "/api/v4/jobs/request", `{"token":"glrt-x"}`, nil)
	a.want(400, "POST", "/lab/jobs", `nonsense = 1`, nil)
	a.want(201, "POST", "/lab/jobs", `script = ["true"]`, nil)
	a.want(201, "POST", "/lab/jobs", "needs = [1]\nscript = [\"true\"]", nil)
	// A real runner takes no job whose features it can't read.
	if job := a.want(201, "POST", "/api/v4/jobs/request", `{"token":"glrt-x"}`, nil); !strings.Contains(job, `"features":{"failure_reasons":["`) {
		t.Errorf("failure_reasons is no list: %s", job)
	}
	// The second has to wait for the first one's artifacts.
	a.want(204, "POST", "/api/v4/jobs/request", `{"token":"glrt-x"}`, nil)

	// The log comes in pieces, each from where the last one ended.
	a.want(403, "PATCH", "/api/v4/jobs/1/trace", "x", map[string]string{"JOB-TOKEN": "job-token-2", "Content-Range": "0-0"})
	a.want(404, "PATCH", "/api/v4/jobs/3/trace", "x", token)
	for i, piece := range []string{"abc", "def"} {
		header := map[string]string{"JOB-TOKEN": "job-token-1", "Content-Range": []string{"0-2", "3-5"}[i]}
		if status, _, got := a.call("PATCH", "/api/v4/jobs/1/trace", piece, header); status != 202 || got.Get("Job-Status") != "running" {
			t.Errorf("piece %d: %d, %v", i, status, got)
		}
	}
	if status, _, got := a.call("PATCH", "/api/v4/jobs/1/trace", "x", map[string]string{"JOB-TOKEN": "job-token-1", "Content-Range": "9-9"}); status != 416 || got.Get("Range") != "0-6" {
		t.Errorf("a piece with a gap before it: %d, %v", status, got)
	}
	a.want(204, "POST", "/lab/jobs/1/cancel?how=canceling", "", nil)
	if _, _, got := a.call("PUT", "/api/v4/jobs/1", `{"token":"job-token-1","state":"running"}`, nil); got.Get("Job-Status") != "canceling" {
		t.Errorf("the runner hears nothing of the cancelling: %v", got)
	}

	// Artifacts come back as they went.
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("file", "artifacts.zip")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = part.Write([]byte("zip"))
	_ = form.Close()
	a.want(404, "GET", "/api/v4/jobs/1/artifacts", "", token)
	a.want(201, "POST", "/api/v4/jobs/1/artifacts", body.String(), map[string]string{"JOB-TOKEN": "job-token-1", "Content-Type": form.FormDataContentType()})
	if got := a.want(200, "GET", "/api/v4/jobs/1/artifacts", "", token); got != "zip" {
		t.Errorf("the artifacts are %q", got)
	}

	// Who claims more of a log than was sent sends it again.
	a.want(412, "PUT", "/api/v4/jobs/1", `{"token":"job-token-1","state":"failed","failure_reason":"script_failure","exit_code":42,"output":{"bytesize":9}}`, nil)
	a.want(403, "PUT", "/api/v4/jobs/1", `{"token":"wrong","state":"success"}`, nil)
	a.want(200, "PUT", "/api/v4/jobs/1", `{"token":"job-token-1","state":"failed","failure_reason":"script_failure","exit_code":42}`, nil)
	var record Record
	if err := json.Unmarshal([]byte(a.want(200, "GET", "/lab/jobs/1", "", nil)), &record); err != nil || record.State != "failed" || record.ExitCode != 42 {
		t.Errorf("%v, %+v", err, record)
	}
}
