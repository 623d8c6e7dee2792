package rootfs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
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
		{"data.tar", pack("./file", "")},
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
	l.Packages[3].Required = true
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
