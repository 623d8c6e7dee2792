package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ephemeral-builder/harness/sshclient"
)

var (
	treeFlag  = flag.String("lab.tree", "", "run TestLab with this host tree, a .tar.zst")
	suiteFlag = flag.String("lab.suite", "trixie", "the suite of -lab.tree")
	cacheFlag = flag.String("lab.cache", "", "where prepared trees are kept; a temporary directory if empty")
	accelFlag = flag.String("lab.accel", "", "kvm or tcg; if empty what works")
	killFlag  = flag.String("lab.victim", "", "for TestLab itself: start a lab of this kind in -lab.dir, and wait to be killed")
	dirFlag   = flag.String("lab.dir", "", "see -lab.victim")
)

func config(t *testing.T, kind Kind) Config {
	t.Helper()
	if *treeFlag == "" {
		t.Skip("boots real labs: run it as root with -lab.tree FILE.tar.zst -lab.suite SUITE -timeout 30m")
	}
	cache := *cacheFlag
	if cache == "" {
		cache = t.TempDir()
	}
	return Config{Kind: kind, Suite: *suiteFlag, Tree: *treeFlag, Cache: cache,
		Accel: Accel(*accelFlag), Log: t.Logf}
}

// labDir is a temporary directory that stays when the test fails, as evidence.
func labDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			os.RemoveAll(dir)
		}
	})
	return dir
}

func TestLab(t *testing.T) {
	for _, kind := range []Kind{Container, VM} {
		t.Run(string(kind), func(t *testing.T) { testKind(t, kind) })
	}
}

func testKind(t *testing.T, kind Kind) {
	cfg := config(t, kind)
	cfg.Dir = labDir(t)
	shared := filepath.Join(t.TempDir(), "what is shared")
	blob := make([]byte, 3<<20)
	_, _ = rand.Read(blob)
	if err := os.WriteFile(shared, blob, 0o644); err != nil {
		t.Fatal(err)
	}
	cfg.Share = map[string]string{"a/blob": shared}
	l := start(t, cfg)
	client := dial(t, l)

	t.Run("healthy", func(t *testing.T) {
		if got := run(t, client, "systemctl is-system-running --wait; systemctl --failed --plain --no-legend"); got != "running\n" {
			t.Errorf("got %q, want %q", got, "running\n")
		}
		if got := run(t, client, "hostname"); got != "lab\n" {
			t.Errorf("hostname: got %q, want %q", got, "lab\n")
		}
	})
	t.Run("share", func(t *testing.T) {
		if got := run(t, client, "cat /run/lab/share/a/blob"); got != string(blob) {
			t.Error("the shared file differs")
		}
		if got := run(t, client, "touch /run/lab/share/x 2>&1 || echo no"); !strings.HasSuffix(got, "no\n") {
			t.Error("the share is writable")
		}
	})
	t.Run("builder", func(t *testing.T) { testBuilder(t, l, client) })
	t.Run("nested", func(t *testing.T) {
		got := run(t, client, nested)
		if want := "0 0\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("journal", func(t *testing.T) {
		run(t, client, "echo from-the-test | systemd-cat")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := l.await(ctx, func() (bool, error) {
			data, err := os.ReadFile(l.path(JournalLog))
			return bytes.Contains(data, []byte("MESSAGE=from-the-test\n")), err
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("openssh", func(t *testing.T) {
		argv := append(slices.Clone(l.Describe().Root), "exit 7")
		err := exec.Command(argv[0], argv[1:]...).Run()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("got %v, want exit status 7", err)
		}
	})
	t.Run("second", func(t *testing.T) {
		cfg := cfg
		cfg.Dir, cfg.Detach = labDir(t), true
		other := start(t, cfg)
		opened, err := Open(cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := run(t, dial(t, opened), "hostname"); got != "lab\n" {
			t.Errorf("got %q", got)
		}
		if err := opened.Close(t.Context()); err != nil {
			t.Error(err)
		}
		<-other.Done()
		if err := other.Close(t.Context()); err != nil {
			t.Error(err)
		}
		run(t, client, "true") // the first lives on
	})
	t.Run("reboot", func(t *testing.T) {
		before := run(t, client, "cat /proc/sys/kernel/random/boot_id")
		run(t, client, "touch /etc/kept; systemctl --no-block reboot")
		if err := l.WaitBoot(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		if after := run(t, dial(t, l), "cat /proc/sys/kernel/random/boot_id /etc/kept"); after == before {
			t.Errorf("boot_id is still %s", after)
		}
	})
	t.Run("close", func(t *testing.T) {
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Errorf("second time: %v", err)
		}
		if _, err := Open(cfg.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open: got %v, want %v", err, fs.ErrNotExist)
		}
		checkGone(t, l)
		entries, _ := os.ReadDir(cfg.Dir)
		for _, e := range entries {
			if !slices.Contains([]string{ConsoleLog, JournalLog, qemuLog, qemuLine, "console-kvm.log", "qemu-kvm.log",
				containerScript, cgroupScript}, e.Name()) {
				t.Errorf("%s is left", e.Name())
			}
		}
	})
	t.Run("killed", func(t *testing.T) {
		dir := labDir(t)
		victim := exec.Command(os.Args[0], "-test.run=^TestVictim$", "-test.v", "-lab.victim="+string(kind), "-lab.dir="+dir,
			"-lab.tree="+cfg.Tree, "-lab.suite="+cfg.Suite, "-lab.cache="+cfg.Cache, "-lab.accel="+*accelFlag)
		out, err := victim.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		buf := make([]byte, 1024)
		for !strings.Contains(said.String(), "lab is up") {
			n, err := out.Read(buf)
			said.Write(buf[:n])
			if err != nil {
				t.Fatalf("%v\n%s", err, &said)
			}
		}
		killed, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		_ = victim.Process.Kill()
		_ = victim.Wait()
		select {
		case <-killed.Done():
		case <-time.After(20 * time.Second):
			t.Error("the lab outlived its killed parent")
		}
		if err := killed.Close(t.Context()); err != nil {
			t.Error(err)
		}
		checkGone(t, killed)
	})
}

// TestVictim is the process that "killed" kills.
func TestVictim(t *testing.T) {
	if *killFlag == "" {
		t.Skip("a part of TestLab")
	}
	cfg := config(t, Kind(*killFlag))
	cfg.Dir = *dirFlag
	cfg.Log = func(string, ...any) {}
	l, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("lab is up")
	<-l.Done()
}

func start(t *testing.T, cfg Config) *Lab {
	t.Helper()
	l, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l
}

func dial(t *testing.T, l *Lab) *sshclient.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, err := l.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func run(t *testing.T, client *sshclient.Conn, command string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if err := client.Run(t.Context(), command, nil, &stdout, &stderr); err != nil {
		t.Fatalf("%s: %v\n%s%s", command, err, &stdout, &stderr)
	}
	return stdout.String()
}

// nested runs a small tree as the builder's containers run, and prints the owner of its
// root as seen in it.
const nested = `set -eu
tree=/var/lib/container/nested
mkdir -p $tree/usr $tree/proc $tree/sys $tree/dev $tree/run $tree/tmp
for file in $(ldd /bin/stat | grep -o '/[^ ]*') /bin/stat /etc/os-release; do cp -L --parents $file $tree; done
systemd-run --quiet --pipe --wait --property=Delegate=yes \
	systemd-nspawn --quiet --pipe --settings=no --keep-unit --register=no -M nested -D $tree --read-only --private-network \
	--private-users=524288:65536 --private-users-ownership=map --link-journal=no --resolv-conf=off --timezone=off \
	/bin/stat -c '%u %g' /
rm -r $tree`

func testBuilder(t *testing.T, l *Lab, client *sshclient.Conn) {
	connect := func() *net.TCPConn {
		conn, err := net.Dial("tcp", l.Builder().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		return conn.(*net.TCPConn)
	}
	if n, err := connect().Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("with no builder: got %d bytes, %v, want a closed connection", n, err)
	}

	run(t, client, `cd /run/systemd/system
		printf '[Socket]\nListenStream=127.0.0.1:24\nAccept=yes\n' >echo.socket
		printf '[Service]\nExecStart=cat\nStandardInput=socket\nStandardError=journal\n' >echo@.service
		systemctl daemon-reload && systemctl start echo.socket`)
	sent := make([]byte, 4<<20)
	for i := range sent {
		sent[i] = byte(i ^ i>>8)
	}
	conn := connect()
	go func() { _, _ = conn.Write(sent) }()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("echo: the bytes differ, %v", err)
	}
	// Our end reaches the service, and the service's end reaches us.
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(got); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after our end: got %d bytes, %v, want a closed connection", n, err)
	}
	idle := connect()
	if _, err := idle.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(idle, got[:1]); err != nil {
		t.Fatal(err)
	}
	run(t, client, "systemctl stop echo.socket 'echo@*.service'")
	if n, err := idle.Read(got); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the service's end: got %d bytes, %v, want a closed connection", n, err)
	}
}

func checkGone(t *testing.T, l *Lab) {
	t.Helper()
	if l.desc.Process.alive() {
		t.Errorf("process %d is left", l.desc.Process.PID)
	}
	for _, dir := range l.desc.Cgroups {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("cgroup %s is left", dir)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || bytes.Contains(mounts, []byte(l.desc.Dir)) {
		t.Errorf("a mount below %s is left: %v", l.desc.Dir, err)
	}
}
