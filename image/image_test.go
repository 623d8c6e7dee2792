package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/image/lock"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/image/sums"
)

func TestCheckVersion(t *testing.T) {
	for _, version := range []string{"20260102150405", "1.2~rc1", "1.2-3+b1"} {
		if err := CheckVersion(version); err != nil {
			t.Errorf("%q: %v", version, err)
		}
	}
	for _, version := range []string{"", "1_2", "../1", "1/2", ".1", "1 2", "1\n"} {
		if err := CheckVersion(version); err == nil {
			t.Errorf("%q passed, want an error", version)
		}
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	touch := func(names ...string) {
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := Find(dir, "b", "", "x86-64"); err == nil || !strings.Contains(err.Error(), "go tool mage build") {
		t.Errorf("empty folder: got %v, want an error with a remedy", err)
	}
	touch("b_1.9_x86-64.tar.zst", "b_1.10_x86-64.tar.zst", "b_1.10~rc1_x86-64.tar.zst", "b_2_arm64.tar.zst", "b-c_3_x86-64.tar.zst")
	if _, err := Find(dir, "b", "", "x86-64"); err == nil || !strings.Contains(err.Error(), "no manifest") {
		t.Errorf("without a manifest: got %v, want an error", err)
	}
	touch("b_1.9_x86-64.manifest.json", "b_1.10_x86-64.manifest.json")
	for version, want := range map[string]string{"": "b_1.10_x86-64", "1.9": "b_1.9_x86-64"} {
		img, err := Find(dir, "b", version, "x86-64")
		if got := filepath.Join(dir, want+".tar.zst"); err != nil || img.Tarball != got {
			t.Errorf("version %q: got %q, %v, want %q", version, img.Tarball, err, got)
		}
	}
}

func TestWorkDirRemovesWhatKilledBuildsLeft(t *testing.T) {
	cache := t.TempDir()
	dead := filepath.Join(cache, "work", "dead", "tree")
	busy := filepath.Join(cache, "work", "busy")
	for _, dir := range []string{dead, busy} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := dirlock.Lock(t.Context(), busy)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	dir, done, err := workDir(t.Context(), cache, "mine")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(dead)); err == nil {
		t.Error("what a killed build left is still there")
	}
	if _, err := os.Stat(busy); err != nil {
		t.Errorf("the folder of a running build: %v", err)
	}
	done()
	if _, err := os.Stat(dir); err == nil {
		t.Error("the folder is still there after the build")
	}
}

func TestPublish(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	prefix := filepath.Join(dir, "image")
	made := func() []string {
		var files []string
		for _, suffix := range []string{manifestSuffix, tarballSuffix} {
			if err := os.WriteFile(prefix+suffix, []byte(suffix), 0o644); err != nil {
				t.Fatal(err)
			}
			files = append(files, prefix+suffix)
		}
		return files
	}
	if err := publish(t.Context(), made(), prefix, filepath.Join(out, "b_1_x86-64")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b_1_x86-64.tar.zst", "b_1_x86-64.manifest.json"} {
		if err := sums.Verify(t.Context(), out, name); err != nil {
			t.Error(err)
		}
	}

	// A sum that can't be made takes all of the image along: it would be the newest.
	files := made()
	if err := os.Remove(filepath.Join(out, sums.Name)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(out, sums.Name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := publish(t.Context(), files, prefix, filepath.Join(out, "b_2_x86-64")); err == nil {
		t.Error("publishing without a sum succeeded")
	}
	if found, err := Find(out, "b", "", "x86-64"); err != nil || filepath.Base(found.Tarball) != "b_1_x86-64.tar.zst" {
		t.Errorf("newest image: got %q, %v, want the older one", found.Tarball, err)
	}
}

func TestSameAsLock(t *testing.T) {
	l := lock.Lock{Packages: []lock.Package{{Name: "bash", Version: "1", Architecture: "amd64"}}}
	if err := sameAsLock([]Package{{"bash", "1", "amd64"}}, l); err != nil {
		t.Error(err)
	}
	err := sameAsLock([]Package{{"bash", "1", "amd64"}, {"vim", "2", "amd64"}}, l)
	if err == nil || !strings.Contains(err.Error(), "vim") {
		t.Errorf("got %v, want an error that names vim", err)
	}
}

func TestStreamTellsTheFirstError(t *testing.T) {
	failed := errors.New("failed")
	for name, tt := range map[string]struct{ write, read, want error }{
		"none":   {nil, nil, nil},
		"writer": {failed, nil, failed},
		"reader": {nil, failed, failed},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := stream(t.Context(), func(_ context.Context, w *os.File) error {
				if _, err := io.WriteString(w, "text"); err != nil {
					return err
				}
				return tt.write
			}, func(r io.Reader) (int, error) {
				if tt.read != nil {
					return 0, tt.read
				}
				text, err := io.ReadAll(r)
				return len(text), err
			})
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) || n != 4 && err == nil {
				t.Errorf("got %d, %v, want 4, %v", n, err, tt.want)
			}
		})
	}
}

// What was built is not built again only as long as it is what was built.
func TestUnchanged(t *testing.T) {
	dir := t.TempDir()
	b := builder{Options: Options{Spec: spec.Default(), Version: "1", Out: filepath.Join(dir, "out"), Cache: filepath.Join(dir, "cache")}}
	b.arch = Arch{"amd64", "x86-64"}
	key, err := b.key(nil)
	if err != nil {
		t.Fatal(err)
	}
	if b.unchanged(t.Context(), key) {
		t.Error("nothing was built, but passes for unchanged")
	}
	if err := os.MkdirAll(b.Out, 0o755); err != nil {
		t.Fatal(err)
	}
	tarball := b.image(b.Out).Tarball
	if err := os.WriteFile(tarball, []byte("image"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := sums.Update(t.Context(), b.Out, filepath.Base(tarball)); err != nil {
		t.Fatal(err)
	}
	if err := b.remember(key); err != nil {
		t.Fatal(err)
	}
	if !b.unchanged(t.Context(), key) {
		t.Error("the same again passes for changed")
	}
	other := b
	other.digest = "another hook"
	if again, err := other.key(nil); err != nil || again == key {
		t.Errorf("other inputs have the same key, %v", err)
	}
	if err := os.WriteFile(tarball, []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	if b.unchanged(t.Context(), key) {
		t.Error("a tarball with other bytes passes for unchanged")
	}
}

// A real sshd must accept what every container's sshd reads.
func TestSSHDConfig(t *testing.T) {
	sshd := "/usr/sbin/sshd"
	if _, err := os.Stat(sshd); err != nil {
		t.Skip("needs sshd: apt-get install openssh-server")
	}
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const hostKey = "/run/host/credentials/ssh.hostkey"
	if !bytes.Contains(sshdConfig, []byte("\nHostKey "+hostKey+"\n")) {
		t.Fatal("sshd_config does not name the credential that the units pass")
	}
	config := filepath.Join(dir, "sshd_config")
	if err := os.WriteFile(config, bytes.ReplaceAll(sshdConfig, []byte(hostKey), []byte(key)), 0o600); err != nil {
		t.Fatal(err)
	}
	// -T and not -t: it needs no /run/sshd, and says what is in force.
	out, err := exec.Command(sshd, "-T", "-f", config).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"usepam no", "passwordauthentication no", "permitrootlogin no", "allowusers builder", "forcecommand none"} {
		if !strings.Contains(string(out), want+"\n") {
			t.Errorf("sshd has not %q in force:\n%s", want, out)
		}
	}
}
