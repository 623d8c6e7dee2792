package units

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// confine runs script confine with filters, at a gate that opens, and an entrypoint that says
// what mkdir(2) says.
func confine(t *testing.T, filters []byte) (stdout, stderr string, err error) {
	t.Helper()
	return confineAt(t, filters, func(keeper *os.File) {
		if _, err := keeper.Read(make([]byte, 1)); err == nil { // else it fails before
			_, _ = keeper.Write([]byte("\n"))
		}
	})
}

func confineAt(t *testing.T, filters []byte, keep func(keeper *os.File)) (stdout, stderr string, err error) {
	t.Helper()
	dir := t.TempDir()
	entrypoint := filepath.Join(dir, "entrypoint")
	const text = "#!/bin/sh\ngrep ^Seccomp: /proc/self/status\nmkdir \"$0.made\" && echo made || echo refused\n"
	if err := os.WriteFile(entrypoint, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	if filters != nil {
		if err := os.WriteFile(filepath.Join(dir, "confine.filters"), filters, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	arch := map[string]string{"amd64": "x86-64", "arm64": "arm64"}[runtime.GOARCH]
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	gate, keeper := os.NewFile(uintptr(ends[0]), "gate"), os.NewFile(uintptr(ends[1]), "keeper")
	cmd := exec.CommandContext(t.Context(), "setpriv", "--no-new-privs", "perl", "../scripts/confine", arch, "kept", entrypoint)
	cmd.Env = append(os.Environ(), "CREDENTIALS_DIRECTORY="+dir, "LISTEN_FDS=1")
	cmd.ExtraFiles = []*os.File{gate}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gate.Close()
	keep(keeper)
	keeper.Close()
	err = cmd.Wait()
	return out.String(), said.String(), err
}

// filter is a program as script filters keeps it: instructions of struct sock_filter.
func filter(instructions ...[4]uint32) []byte {
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(instructions)))
	for _, i := range instructions {
		out = binary.LittleEndian.AppendUint16(out, uint16(i[0]))
		out = append(out, byte(i[1]), byte(i[2]))
		out = binary.LittleEndian.AppendUint32(out, i[3])
	}
	return out
}

// From linux/bpf_common.h and linux/seccomp.h.
const (
	loadWord, jumpIfEqual, ret = 0x20, 0x15, 0x06
	allow, errno               = 0x7fff0000, 0x00050000
)

func TestConfine(t *testing.T) {
	mkdir := map[string]uint32{"amd64": 83, "arm64": 34}[runtime.GOARCH] // arm64 has mkdirat only
	everything := filter([4]uint32{ret, 0, 0, allow})
	noMkdir := filter([4]uint32{loadWord, 0, 0, 0}, [4]uint32{jumpIfEqual, 0, 1, mkdir}, [4]uint32{ret, 0, 0, errno | uint32(syscall.EPERM)}, [4]uint32{ret, 0, 0, allow})

	out, said, err := confine(t, everything)
	if err != nil || out != "Seccomp:\t2\nmade\n" {
		t.Errorf("with a filter that allows all: %v, %q, %s", err, out, said)
	}
	for name, filters := range map[string][]byte{"alone": noMkdir, "first": append(bytes.Clone(noMkdir), everything...), "last": append(bytes.Clone(everything), noMkdir...)} {
		out, said, err := confine(t, filters)
		if err != nil || out != "Seccomp:\t2\nrefused\n" {
			t.Errorf("with a filter against mkdir, %s: %v, %q, %s", name, err, out, said)
		}
	}
}

// Nothing runs in a container that does not get its bounds.
func TestConfineWaits(t *testing.T) {
	good := filter([4]uint32{ret, 0, 0, allow})
	for name, keep := range map[string]func(*os.File){
		"nobody there":   func(*os.File) {},
		"somebody fails": func(keeper *os.File) { _, _ = keeper.Read(make([]byte, 1)) },
	} {
		out, said, err := confineAt(t, good, keep)
		if want := "confine: nobody has bounded this container"; err == nil || out != "" || !strings.Contains(said, want) {
			t.Errorf("%s: %v, printed %q and %q, want an error with %q", name, err, out, said, want)
		}
	}
}

// What can't be loaded as a whole lets nothing run.
func TestConfineFailsClosed(t *testing.T) {
	good := filter([4]uint32{ret, 0, 0, allow})
	for name, test := range map[string]struct {
		filters []byte
		want    string
	}{
		"none":              {nil, "confine: filters: No such file"},
		"empty":             {[]byte{}, "confine: there are no filters"},
		"a newline":         {[]byte("\n"), "confine: "},
		"cut short":         {good[:len(good)-1], "confine: the filters are cut short"},
		"the second is cut": {append(bytes.Clone(good), good[:5]...), "confine: the filters are cut short"},
		"not a program":     {filter([4]uint32{0xffff, 0, 0, 0}), "confine: seccomp: Invalid argument"},
	} {
		out, said, err := confine(t, test.filters)
		if err == nil || out != "" || !strings.Contains(said, test.want) {
			t.Errorf("%s: %v, printed %q and %q, want an error with %q", name, err, out, said, test.want)
		}
	}
}
