package gitlab_test

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"ephemeral-builder/harness/gitlab"
	"ephemeral-builder/harness/sshclient/sshtest"
)

// ends calls what it is made of at the first write.
type ends func()

func (e ends) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("served")) {
		e()
	}
	return len(p), nil
}

// A job whose connection breaks ends: the next stage's channel is opened at that very moment, for
// which x/crypto's client waits for ever. A run of the scripts did so for an hour.
func TestConnectionBreaks(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{})
	recipe, err := gitlab.ParseRecipe(`script = ["echo served; exec sleep 1000"]
after_script = ["true"]`)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	executor := gitlab.Executor{
		Settings: gitlab.Settings{URL: "http://gitlab.example.com", BuildsDir: home + "/builds", CacheDir: home + "/cache"},
		Addr:     server.Addr, User: server.Target.User, Identity: server.Target.Identity,
		HostKey: ssh.InsecureIgnoreHostKey(), // the server has two
	}
	for range 20 {
		result := make(chan gitlab.Result, 1)
		go func() { result <- executor.Run(t.Context(), recipe.Job(1), ends(server.DropAll), nil) }()
		select {
		case r := <-result:
			if r.System == nil {
				t.Errorf("got %s, want a system failure", r)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the job waits for a connection that is lost")
		}
	}
}
