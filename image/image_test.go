package image

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ephemeral-builder/image/dirlock"
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
	tree := filepath.Join(dir, "tree")
	out := filepath.Join(dir, "out")
	for _, path := range []string{filepath.Join(tree, "etc"), out} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	manifest := Manifest{Name: "b", Version: "1", Architecture: "x86-64", Spec: spec.Default()}
	img := Image{Tarball: filepath.Join(out, "b_1_x86-64.tar.zst"), Manifest: filepath.Join(out, "b_1_x86-64.manifest.json")}
	if err := publish(t.Context(), nil, tree, img, manifest, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{img.Tarball, img.Manifest} {
		if err := sums.Verify(t.Context(), out, filepath.Base(path)); err != nil {
			t.Error(err)
		}
	}
	published, err := ReadManifest(img.Manifest)
	if err != nil || len(published.Tar.SHA256) != 64 || published.Stem() != "b_1_x86-64" {
		t.Errorf("manifest: got %+v, %v", published, err)
	}

	// A manifest that can't be written takes its tarball along: it would be the newest image.
	img = Image{Tarball: filepath.Join(out, "b_2_x86-64.tar.zst"), Manifest: filepath.Join(out, "b_2_x86-64.manifest.json")}
	if err := os.MkdirAll(filepath.Join(img.Manifest, "in-the-way"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := publish(t.Context(), nil, tree, img, manifest, time.Unix(0, 0)); err == nil {
		t.Error("publishing without a manifest succeeded")
	}
	if found, err := Find(out, "b", "", "x86-64"); err != nil || filepath.Base(found.Tarball) != "b_1_x86-64.tar.zst" {
		t.Errorf("newest image: got %q, %v, want the older one", found.Tarball, err)
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
