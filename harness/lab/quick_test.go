package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/ssh"
)

func TestQemuArgs(t *testing.T) {
	cfg := Config{qemu: "qemu", Memory: 1024, CPUs: 3}
	for _, tt := range []struct {
		accel        Accel
		base, option string
		want         string
	}{
		{KVM, "/c", "-accel", "kvm"},
		{KVM, "/c", "-cpu", "host"},
		{TCG, "/c", "-accel", "tcg,thread=single"},
		{TCG, "/c", "-cpu", "max"},
		{TCG, "/c", "-m", "1024"},
		{TCG, "/c", "-smp", "3"},
		{TCG, "/c", "-initrd", "/c/initrd"},
		{TCG, "/a,b", "-drive", "if=none,id=root,format=raw,file=/a,,b/disk.img,snapshot=on,cache=unsafe"},
		{TCG, "/c", "-netdev", "user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-10.0.2.15:22,hostfwd=tcp:127.0.0.1:0-10.0.2.15:2024"},
	} {
		args := qemuArgs(cfg, tt.accel, tt.base)
		if i := slices.Index(args, tt.option); i < 0 || args[i+1] != tt.want {
			t.Errorf("%s by %s: got %q, want %q", tt.option, tt.accel, args[i+1], tt.want)
		}
	}
}

func TestParseUsernet(t *testing.T) {
	const text = "Hub -1 (net):\r\n" +
		"  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n" +
		"  TCP[ESTABLISHED]   17       127.0.0.1 40363       10.0.2.15    22     0     0\r\n" +
		"  TCP[HOST_FORWARD]  13       127.0.0.1 40365       10.0.2.15    24     0     0\r\n" +
		"  TCP[HOST_FORWARD]  12       127.0.0.1 40363       10.0.2.15    22     0     0\r\n"
	got := parseUsernet(text)
	if len(got) != 2 || got[22] != 40363 || got[24] != 40365 {
		t.Errorf("got %v, want ports 40363 and 40365 for 22 and 24", got)
	}
}

func TestConsole(t *testing.T) {
	c := console{file: filepath.Join(t.TempDir(), ConsoleLog)}
	if lines, err := c.lines(); len(lines) > 0 || err != nil {
		t.Errorf("before there is a file: got %q, %v", lines, err)
	}
	for _, tt := range []struct {
		more, line, trouble string
	}{
		{"Probing EDD...\r\nLinux ver", "Probing EDD...\r", ""},
		{"sion 6.1\nKernel pan", "Linux version 6.1", ""},
		{"ic - not syncing\r\nnext\n", "Kernel panic - not syncing\r", `the console says "Kernel panic - not syncing"`},
		{"", "", ""},
		{"[1] Oops: 0000\n", "[1] Oops: 0000", `the console says "[1] Oops: 0000"`},
	} {
		f, err := os.OpenFile(c.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(f, tt.more)
		f.Close()
		lines, err := c.lines()
		if err != nil || len(lines) == 0 || lines[0] != tt.line {
			t.Errorf("after %q: got %q, %v, want %q", tt.more, lines, err, tt.line)
		}
		got := ""
		if err := trouble(lines); err != nil {
			got = err.Error()
		}
		if got != tt.trouble {
			t.Errorf("after %q: got %q, want %q", tt.more, got, tt.trouble)
		}
	}
}

func TestStartTime(t *testing.T) {
	after := " S" + strings.Repeat(" 0", 18) + " 4242 0 0"
	for _, name := range []string{"sh", "a b", ") S 1 (x"} {
		got, err := startTime([]byte("7 (" + name + ")" + after))
		if got != 4242 || err != nil {
			t.Errorf("process named %q: got %d, %v, want 4242", name, got, err)
		}
	}
	if _, err := startTime([]byte("7 (x) S 1")); err == nil {
		t.Error("a short line: got no error")
	}
}

func TestKillNoStranger(t *testing.T) {
	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := identify(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for name, stranger := range map[string]process{
		"another start": {p.PID, p.Start + 1, p.Boot},
		"another boot":  {p.PID, p.Start, "another"},
		"no process":    {},
	} {
		if err := stranger.kill(t.Context()); err != nil || stranger.alive() {
			t.Errorf("%s: %v", name, err)
		}
		select {
		case <-stranger.watch():
		default:
			t.Errorf("%s: is watched", name)
		}
	}
	if !p.alive() {
		t.Error("a stranger was killed")
	}
	done := p.watch()
	if err := p.kill(t.Context()); err != nil || p.alive() {
		t.Errorf("the process itself: %v", err)
	}
	<-done
	_ = child.Wait()
	if got := child.ProcessState.Sys().(syscall.WaitStatus).Signal(); got != syscall.SIGKILL {
		t.Errorf("got %v, want %v", got, syscall.SIGKILL)
	}
}

// fakeQemu makes a shell script pass for QEMU. $accel is the accelerator.
func fakeQemu(t *testing.T, script string) (*Lab, Config, *os.File, *[]string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "qemu")
	text := "#!/bin/sh\ncase \"$*\" in *-accel\\ kvm*) accel=kvm ;; *) accel=tcg ;; esac\n" + script
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	base, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { base.Close() })
	var logged []string
	cfg := Config{Kind: VM, Cache: dir, qemu: file, kvm: "/dev/null",
		Log: func(format string, args ...any) { logged = append(logged, fmt.Sprintf(format, args...)) }}
	l := &Lab{desc: Description{Kind: VM, Dir: t.TempDir()}}
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l, cfg, base, &logged
}

// answer speaks as much QMP as is asked for.
const answer = `echo 'Linux version 6' >console.log
echo '{"QMP": {}}' >&3
read -r capabilities <&3 && echo '{"return": {}}' >&3
read -r usernet <&3 && printf '%s\n' '{"return": "TCP[HOST_FORWARD] 1 127.0.0.1 1022 10.0.2.15 22 0 0\r\nTCP[HOST_FORWARD] 1 127.0.0.1 1024 10.0.2.15 2024 0 0\r\n"}' >&3
exec sleep 1000
`

func TestAccelerator(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		want         Accel
		why          string // part of the line that is logged; empty if none
	}{
		{"KVM works", "", KVM, ""},
		{"KVM fails but QEMU goes on", `[ $accel = tcg ] || { echo 'Probing EDD...' >console.log
			echo 'KVM internal error. Suberror: 1' >&2; exec sleep 1000; }`, TCG, "KVM internal error. Suberror: 1"},
		{"QEMU ends", `[ $accel = tcg ] || { echo 'failed to initialize kvm' >&2; exit 1; }`, TCG, "failed to initialize kvm"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, cfg, base, logged := fakeQemu(t, tt.script+"\n"+answer)
			if err := l.bootSomehow(t.Context(), cfg, base); err != nil {
				t.Fatal(err)
			}
			if l.desc.Accel != tt.want || l.Root().Port != 1022 || l.Builder().Port != 1024 {
				t.Errorf("got %+v, want %s with ports 1022 and 1024", l.desc, tt.want)
			}
			if tt.why == "" {
				if len(*logged) > 0 || kvmUnusable(cfg) != nil {
					t.Errorf("got %q, %v, want nothing to tell", *logged, kvmUnusable(cfg))
				}
				return
			}
			if len(*logged) != 1 || !strings.Contains((*logged)[0], tt.why) {
				t.Errorf("got %q, want one line with %q", *logged, tt.why)
			}
			if err := kvmUnusable(cfg); err == nil || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("remembered: got %v, want %q", err, tt.why)
			}
			if _, err := os.Stat(l.path("qemu-kvm.log")); err != nil {
				t.Errorf("no evidence: %v", err)
			}
			// The note is about this boot of the machine only.
			note, _ := os.ReadFile(kvmNote(cfg.Cache))
			_, reason, _ := strings.Cut(string(note), "\n")
			_ = os.WriteFile(kvmNote(cfg.Cache), []byte("another-boot\n"+reason), 0o600)
			if err := kvmUnusable(cfg); err != nil {
				t.Errorf("after a reboot: got %v", err)
			}
		})
	}
	t.Run("no device", func(t *testing.T) {
		l, cfg, base, logged := fakeQemu(t, answer)
		cfg.kvm = "/nonexistent/kvm"
		if err := l.bootSomehow(t.Context(), cfg, base); err != nil || l.desc.Accel != TCG || len(*logged) != 1 {
			t.Errorf("got %v, %s, %q, want one line and %s", err, l.desc.Accel, *logged, TCG)
		}
	})
	t.Run("chosen KVM does not fall back", func(t *testing.T) {
		l, cfg, base, _ := fakeQemu(t, "exit 1")
		cfg.Accel = KVM
		if err := l.bootSomehow(t.Context(), cfg, base); !errors.As(err, new(*kvmError)) {
			t.Errorf("got %v, want a %T", err, new(kvmError))
		}
	})
}

func TestWaitEnds(t *testing.T) {
	for _, tt := range []struct{ name, script, want string }{
		{"QEMU ends", answer[:strings.Index(answer, "exec")] + "echo 'qemu: no disk' >&2; exit 1", "QEMU has ended: qemu: no disk"},
		{"kernel panics", strings.Replace(answer, "exec", "echo '[1] Kernel panic - not syncing' >>console.log; exec", 1),
			`the console says "[1] Kernel panic - not syncing"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, cfg, base, _ := fakeQemu(t, tt.script)
			cfg.Accel = TCG
			if err := os.WriteFile(l.path(readyFile), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := l.bootSomehow(t.Context(), cfg, base); err != nil {
				t.Fatal(err)
			}
			if err := l.WaitBoot(t.Context(), 1); err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	t.Run("context", func(t *testing.T) {
		l, cfg, base, _ := fakeQemu(t, answer)
		cfg.Accel = TCG
		if err := os.WriteFile(l.path(readyFile), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := l.bootSomehow(t.Context(), cfg, base); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := l.WaitBoot(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
	})
}

func TestOpen(t *testing.T) {
	l, cfg, base, _ := fakeQemu(t, answer)
	cfg.Accel = TCG
	if _, err := Open(l.desc.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no lab: got %v, want %v", err, fs.ErrNotExist)
	}
	if err := l.handIn(nil); err != nil {
		t.Fatal(err)
	}
	if err := l.bootSomehow(t.Context(), cfg, base); err != nil {
		t.Fatal(err)
	}
	if err := l.introduce(); err != nil {
		t.Fatal(err)
	}
	opened, err := Open(l.desc.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%+v", opened.Describe()), fmt.Sprintf("%+v", l.Describe()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := opened.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-l.Done()
	for _, gone := range []string{File, rootKey, handedIn} {
		if _, err := os.Stat(l.path(gone)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", gone, err)
		}
	}
	if _, err := os.Stat(l.path(qemuLog)); err != nil {
		t.Errorf("no evidence: %v", err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Errorf("closed by another before: %v", err)
	}
}

func TestHandIn(t *testing.T) {
	l := &Lab{desc: Description{Dir: t.TempDir()}}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, file+".link"); err != nil {
		t.Fatal(err)
	}
	if err := l.handIn(map[string]string{"a/b": file + ".link"}); err != nil {
		t.Fatal(err)
	}
	shared, err := os.Lstat(l.path(handedIn, "share", "a", "b"))
	if err != nil || !shared.Mode().IsRegular() || shared.Size() != 7 {
		t.Errorf("got %v, %v, want the file itself", shared, err)
	}
	// The private key here and the public one in the lab are a pair.
	private, err := os.ReadFile(l.path(rootKey))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(l.path(handedIn, "identity", "authorized_keys"))
	if err != nil || !bytes.Equal(public, ssh.MarshalAuthorizedKey(signer.PublicKey())) {
		t.Errorf("got %q, %v, want the public key of %s", public, err, rootKey)
	}
	if info, err := os.Stat(l.path(rootKey)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: got %v, %v, want mode 0600", rootKey, info.Mode(), err)
	}
	if err := l.handIn(map[string]string{"../x": file}); err == nil {
		t.Error("a name that leads out of the share: got no error")
	}
}

func TestStartRefuses(t *testing.T) {
	self, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	occupied := t.TempDir()
	running := &Lab{desc: Description{Dir: occupied, Process: self}}
	if err := running.save(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{Kind: "jail"}, `lab kind "jail" is unknown: choose "vm" or "container"`},
		{Config{Kind: VM, Dir: occupied}, "a lab runs in " + occupied + ": close it, or choose another directory"},
		{Config{Kind: VM, Suite: "sid", Dir: t.TempDir(), Tree: "/nonexistent"},
			"preparing a sid vm lab: open /nonexistent: no such file or directory"},
	} {
		if _, err := Start(t.Context(), tt.cfg); err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

// A directory whose lab was killed can be used again.
func TestRemoveOld(t *testing.T) {
	dead := &Lab{desc: Description{Dir: t.TempDir(), Process: process{PID: 1, Boot: "another"}}}
	if err := dead.handIn(nil); err != nil {
		t.Fatal(err)
	}
	if err := dead.save(); err != nil {
		t.Fatal(err)
	}
	l := &Lab{desc: Description{Dir: dead.desc.Dir}}
	if err := l.removeOld(t.Context()); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(l.desc.Dir); len(entries) > 0 || err != nil {
		t.Errorf("got %v, %v, want an empty directory", entries, err)
	}
}

func TestRemoveUnused(t *testing.T) {
	cfg := Config{Kind: VM, Suite: "sid", Cache: t.TempDir()}
	for _, name := range []string{"vm-sid-1", "vm-sid-2", "vm-sid-3", "vm-sid-4.tmp", "vm-sid-5.gone", "container-sid-1"} {
		if err := os.MkdirAll(filepath.Join(cfg.Cache, name, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	inUse, err := use(filepath.Join(cfg.Cache, "vm-sid-2"))
	if err != nil {
		t.Fatal(err)
	}
	defer inUse.Close()
	removeUnused(cfg, "vm-sid-1")
	entries, err := os.ReadDir(cfg.Cache)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if want := []string{"container-sid-1", "vm-sid-1", "vm-sid-2", "vm-sid-4.tmp"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestBaseName(t *testing.T) {
	tree := filepath.Join(t.TempDir(), "tree")
	name := func(content string, kind Kind) string {
		if err := os.WriteFile(tree, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		name, err := baseName(t.Context(), Config{Kind: kind, Suite: "sid", Tree: tree})
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	first := name("a", VM)
	if !strings.HasPrefix(first, "vm-sid-") || name("a", VM) != first {
		t.Errorf("got %s, then %s", first, name("a", VM))
	}
	if name("b", VM) == first || name("a", Container) == first {
		t.Errorf("another tree or kind has the same name, %s", first)
	}
}

func TestOwnerCommands(t *testing.T) {
	var buf bytes.Buffer
	z, err := zstd.NewWriter(&buf)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, h := range []*tar.Header{
		{Name: "./etc/passwd", Mode: 0o644},
		{Name: "./etc/shadow", Mode: 0o640, Gid: 42},
		{Name: `./a "b"`, Mode: 0o600, Uid: 7, Gid: 8},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x.tar.zst")
	if err := os.WriteFile(file, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	want := `set_inode_field "/etc/shadow" uid 0
set_inode_field "/etc/shadow" gid 42
set_inode_field "/a ""b""" uid 7
set_inode_field "/a ""b""" gid 8
`
	if got, err := ownerCommands(t.Context(), file); got != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// The functions that remove cgroups use nothing but rmdir, so plain directories do.
func TestRemoveStaleCgroups(t *testing.T) {
	parent := t.TempDir()
	self, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	mine := fmt.Sprintf("lab-%d-%d", self.PID, self.Start)
	for _, name := range []string{mine, fmt.Sprintf("lab-%d-%d/host/payload", self.PID, self.Start+1), "lab-x", "user"} {
		if err := os.MkdirAll(filepath.Join(parent, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	removeStaleCgroups(t.Context(), parent, self.Boot)
	entries, err := os.ReadDir(parent)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if want := []string{mine, "lab-x", "user"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}
