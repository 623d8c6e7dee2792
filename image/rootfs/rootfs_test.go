package rootfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ephemeral-builder/image/lock"
)

// writeDeb makes a Debian package with nothing in it but a control file.
func writeDeb(t *testing.T, dir string, p lock.Package, made string, control string) {
	t.Helper()
	writeBigDeb(t, dir, p, made, control, "")
}

// writeBigDeb has a content for its one file.
func writeBigDeb(t *testing.T, dir string, p lock.Package, made, control, content string) {
	t.Helper()
	pack := func(name, text string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
		w.Close()
		return b.Bytes()
	}
	var file bytes.Buffer
	file.WriteString("!<arch>\n")
	for _, member := range []struct {
		name string
		data []byte
	}{
		{"debian-binary", []byte("2.0\n")},
		{"control.tar", pack("./control", "Package: "+p.Name+"\nVersion: "+p.Version+"\nArchitecture: "+p.Architecture+"\nMaintainer: A <a@example.com>\nInstalled-Size: 10\n"+control+"Description: a\n b\n")},
		{"data.tar.gz", compress(pack("./file", content))},
	} {
		fmt.Fprintf(&file, "%-16s%-12s%-6d%-6d%-8s%-10d`\n%s", member.name, made, 0, 0, "100644", len(member.data), member.data)
		if len(member.data)%2 == 1 {
			file.WriteByte('\n')
		}
	}
	if err := os.WriteFile(filepath.Join(dir, DebName(p)), file.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func compress(data []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.NoCompression) // so that sizes are predictable
	w.Write(data)
	w.Close()
	return b.Bytes()
}

func packages(names ...string) []lock.Package {
	var all []lock.Package
	for _, name := range names {
		all = append(all, lock.Package{Name: name, Version: "1:2", Architecture: "amd64", SHA256: strings.Repeat("0123456789abcdef", 4)})
	}
	return all
}

func TestDebs(t *testing.T) {
	dir := t.TempDir()
	l := lock.Lock{Architecture: "amd64", Packages: packages("bash", "git", "libc6", "mawk", "perl")}
	for i, control := range []string{
		"Essential: yes\nPre-Depends: libc6 (>= 2.4), missing | awk\n",
		"Depends: perl:any\n",
		"", "Provides: awk\n", "Depends: bash\n",
	} {
		writeDeb(t, dir, l.Packages[i], []string{"5", "900", "7", "8", "9"}[i], control)
	}
	debs, err := OpenDebs(dir, l)
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Unix(900, 0).UTC(); !debs.Newest.Equal(want) || debs.Size != 50<<10 {
		t.Errorf("got %s, %d bytes, want %s, %d", debs.Newest, debs.Size, want, 50<<10)
	}
	required, base, err := debs.split()
	if err != nil || !slices.Equal(required, []string{"bash", "libc6", "mawk"}) || !slices.Equal(base, []string{"git", "perl"}) {
		t.Errorf("got %v, %v, %v", required, base, err)
	}

	l.Sources = []lock.Source{{URI: "http://mirror.invalid/debian", Codename: "trixie"}}
	seed := filepath.Join(dir, "seed.tar")
	if err := writeSeed(seed, l, debs, required, base); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(seed)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	contents := map[string]string{}
	for r := tar.NewReader(file); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r)
		contents[h.Name] = string(text)
	}
	if got := contents["debootstrap/required"]; got != "bash libc6 mawk\n" {
		t.Errorf("required: got %q", got)
	}
	if got := contents["debootstrap/debpaths"]; !strings.HasPrefix(got, "bash var/cache/apt/archives/bash_1%3a2_amd64_0123456789abcdef.deb\n") {
		t.Errorf("debpaths: got %q", got)
	}
	if got := contents["var/lib/apt/lists/mirror.invalid_debian_dists_trixie_main_binary-amd64_Packages"]; !strings.Contains(got, "\n\nPackage: git\nVersion: 1:2\n") {
		t.Errorf("index: got %q", got)
	}
}

func TestDebsErrors(t *testing.T) {
	dir := t.TempDir()
	l := lock.Lock{Packages: packages("git")}
	if _, err := OpenDebs(dir, l); !os.IsNotExist(err) {
		t.Errorf("a file that is not there: got %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, DebName(l.Packages[0])), []byte("no deb"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDebs(dir, l); err == nil || !strings.Contains(err.Error(), "is no Debian package: remove it") {
		t.Errorf("a file that is no package: got %v", err)
	}
	writeDeb(t, dir, l.Packages[0], "1", "")
	debs, err := OpenDebs(dir, l)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := debs.split(); err == nil || !strings.Contains(err.Error(), "no package is essential") {
		t.Errorf("no essential package: got %v", err)
	}
}

// dpkg-deb judges what we write.
func TestDecompress(t *testing.T) {
	dir, decompressed := t.TempDir(), t.TempDir()
	l := lock.Lock{Packages: packages("big", "small")}
	writeBigDeb(t, dir, l.Packages[0], "1", "", strings.Repeat("0123456789abcde\n", worthwhile/16))
	writeDeb(t, dir, l.Packages[1], "1", "")
	big := filepath.Join(dir, DebName(l.Packages[0]))
	debs, err := OpenDebs(dir, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := debs.decompress(t.Context(), decompressed, []string{"small", "big"}, 2); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(decompressed); len(left) != 1 {
		t.Errorf("got %d files, want the big package's only", len(left))
	}
	for _, what := range []string{"--field", "--fsys-tarfile", "--ctrl-tarfile"} {
		want, err := exec.Command("dpkg-deb", what, big).Output()
		if err != nil {
			t.Fatal(err)
		}
		got, err := exec.Command("dpkg-deb", what, filepath.Join(decompressed, filepath.Base(big))).Output()
		if err != nil || !bytes.Equal(got, want) || len(want) == 0 {
			t.Errorf("dpkg-deb %s: got %d bytes, %v, want %d", what, len(got), err, len(want))
		}
	}

	if err := os.Truncate(big, worthwhile+1000); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(decompressed); err != nil || os.Mkdir(decompressed, 0o755) != nil {
		t.Fatal(err)
	}
	err = debs.decompress(t.Context(), decompressed, []string{"big"}, 1)
	if err == nil || !strings.Contains(err.Error(), "decompressing big_1%3a2_amd64") {
		t.Errorf("a truncated package: got %v", err)
	}
	if left, _ := os.ReadDir(decompressed); len(left) != 0 {
		t.Errorf("it left %v", left)
	}
}

func TestSteps(t *testing.T) {
	s := steps{} // a nil stage shows nothing
	for _, part := range []string{"I: Extracting ba", "sh...\nI: Something else\nI: Unpacking libc6:amd64...\n", "W: Configuring git...\n"} {
		if _, err := io.WriteString(&s, part); err != nil {
			t.Fatal(err)
		}
	}
	if s.done != 2 {
		t.Errorf("got %d steps, want 2", s.done)
	}
}
