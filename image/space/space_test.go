package space

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"ephemeral-builder/image/command"
)

// start makes a space, or skips the test where the system does not allow it.
func start(t *testing.T) *Space {
	t.Helper()
	if os.Geteuid() != 0 {
		if me, err := user.Current(); err == nil {
			if _, err := subordinate("/etc/subuid", me); err != nil {
				t.Skip(err)
			}
		}
	}
	s, err := Start(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestRun sees from inside what the package promises.
func TestRun(t *testing.T) {
	s := start(t)
	t.Setenv("LC_ALL", "tr_TR.UTF-8")
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := s.Run(t.Context(), command.Cmd{Args: []string{"sh", "-euc", `
		id -u; hostname; umask; pwd; echo "$A ${LC_ALL-none}"; cat /proc/1/comm
		cat /proc/net/dev | grep -vc lo:
		mount -t tmpfs none "$1"
		touch "$1/file"; chown 9000:65534 "$1/file"; stat -c %u:%g "$1/file"`, "sh", dir},
		Env: []string{"A=a"}, Dir: "/usr", Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	want := "0\nlocalhost\n0022\n/usr\na none\ncat\n2\n9000:65534\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("outside the mount shows %v, %v, want nothing", left, err)
	}
}

// What is left running ends with the space.
func TestClose(t *testing.T) {
	s := start(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := command.Run(t.Context(), command.Cmd{Args: []string{"mkfifo", "-m", "666", fifo}}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(fifo), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), command.Cmd{Args: []string{"sh", "-c", `setsid sh -c 'exec >"$1"; echo up; sleep 600' sh "$1" </dev/null >/dev/null 2>&1 &`, "sh", fifo}}); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(fifo) // waits for the writer
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	up := make([]byte, len("up\n"))
	if _, err := io.ReadFull(held, up); err != nil || string(up) != "up\n" {
		t.Fatalf("got %q, %v", up, err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	// The end of the file comes when its only writer is gone.
	if rest, err := io.ReadAll(held); err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestErrors(t *testing.T) {
	s := start(t)
	err := s.Run(t.Context(), command.Cmd{Args: []string{"sh", "-c", "echo why >&2; exit 3"}})
	if err == nil || strings.Contains(err.Error(), "nsenter") || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "why") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	cancel(stop)
	if _, err := Start(ctx, ""); !errors.Is(err, stop) {
		t.Errorf("got %v, want %v", err, stop)
	}
}

func TestSubordinate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "subuid")
	if err := os.WriteFile(path, []byte("other:1:65536\nme:5:100\nme:200000:65536\n1234:300000:65536\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		me   user.User
		want int
		err  string
	}{
		{user.User{Username: "me", Uid: "7"}, 200000, ""},
		{user.User{Username: "x", Uid: "1234"}, 300000, ""},
		{user.User{Username: "y", Uid: "8"}, 0, "usermod --add-subuids"},
	} {
		got, err := subordinate(path, &tt.me)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got %d, %v", tt.me.Username, got, err)
		}
	}
}
