package rootfs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/lock"
	"ephemeral-builder/image/prereq"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/scripts"
)

// Ready makes sure, before any work, that the programs for building for an architecture
// (Debian's name) are there.
func Ready(ctx context.Context, rep *progress.Reporter, arch string) error {
	needs := []prereq.Need{{Program: "debootstrap", Package: "debootstrap"}}
	if os.Geteuid() != 0 {
		needs = append(needs, prereq.Need{Program: "newuidmap", Package: "uidmap"})
	}
	if arch != runtime.GOARCH {
		needs = append(needs, prereq.Need{Program: emulators[arch].program, Package: "qemu-user-static"})
	}
	return prereq.Ensure(ctx, rep, needs...)
}

// archives is where debootstrap looks for packages, in the tree; packed has them as they
// were downloaded.
const (
	archives = "var/cache/apt/archives"
	packed   = archives + "/packed"
)

// Bootstrap fills an empty tree with the packages of a lock, all of which are in debs. It
// needs no network: debootstrap gets a tarball such as its own --make-tarball makes, but
// with the packages mounted and not in it.
func (t *Tree) Bootstrap(ctx context.Context, stage *progress.Stage, l lock.Lock, debs Debs) error {
	required, base, err := debs.split()
	if err != nil {
		return err
	}
	source := l.Sources[0]
	seed := t.dir + ".seed.tar"
	if err := writeSeed(seed, l, debs, required, base); err != nil {
		return err
	}
	defer os.Remove(seed)
	suite := t.dir + ".suite"
	if err := writeScript(suite, "debootstrap-suite"); err != nil {
		return err
	}
	defer os.Remove(suite)
	if err := t.mountDebs(ctx, debs); err != nil {
		return err
	}
	if err := t.keepHostKeysOut(ctx); err != nil {
		return err
	}
	stage.Detail("decompressing packages")
	stop, err := t.decompressAhead(ctx, debs, required, base)
	if err != nil {
		return err
	}
	defer stop()
	args := []string{
		"debootstrap", "--variant=minbase", "--arch=" + l.Architecture, "--unpack-tarball=" + seed,
		source.Codename, t.dir, source.URI, suite,
	}
	stage.Total(int64(3*len(required) + 2*len(base)))
	err = t.space.Run(ctx, command.Cmd{
		Args: args,
		// lxc: with it debootstrap binds devices, which in a user namespace nobody can make.
		Env:    append(environment(debs.Newest), "container=lxc"),
		Stdout: io.MultiWriter(t.log, &steps{stage: stage}),
		Stderr: t.log,
	})
	if err != nil {
		return t.explain(ctx, err)
	}
	stop()
	if err := t.run(ctx, "umount", filepath.Join(t.dir, packed)); err != nil {
		return err
	}
	if err := t.run(ctx, "rm", "-r", filepath.Join(t.dir, archives)); err != nil {
		return err
	}
	// What debootstrap has bound devices to: ordinary files, in which the last that was
	// written to /dev/null can stand.
	return t.run(ctx, "find", filepath.Join(t.dir, "dev"), "-mindepth", "1", "-delete")
}

// keepHostKeysOut lets openssh-server find a file where each host key would be, so that it
// generates none: no image has ever had one, and half a second is saved. Script tree-clean
// removes them.
func (t *Tree) keepHostKeysOut(ctx context.Context) error {
	dir := filepath.Join(t.dir, "etc/ssh")
	if err := t.run(ctx, "mkdir", "-p", dir); err != nil {
		return err
	}
	touch := []string{"touch"}
	for _, kind := range []string{"rsa", "ecdsa", "ed25519"} {
		touch = append(touch, filepath.Join(dir, "ssh_host_"+kind+"_key"))
	}
	return t.run(ctx, touch...)
}

// mountDebs shows the packages where debootstrap looks for them, as links that
// [Tree.decompressAhead] may replace.
func (t *Tree) mountDebs(ctx context.Context, debs Debs) error {
	if err := t.run(ctx, "mkdir", "-p", filepath.Join(t.dir, packed)); err != nil {
		return err
	}
	if err := t.run(ctx, "mount", "--bind", debs.dir, filepath.Join(t.dir, packed)); err != nil {
		return err
	}
	for _, f := range debs.files {
		link := filepath.Join(t.dir, archives, f.name)
		if err := os.Symlink(filepath.Join(filepath.Base(packed), f.name), t.space.Path(link)); err != nil {
			return err
		}
	}
	return nil
}

// decompressAhead makes packages quick to read: what is required on all cores, as it is read
// twice; the rest until stop, on all cores but the one that dpkg works on. It begins at the
// end, as dpkg reads from the other: neither is to do again what the other has done.
func (t *Tree) decompressAhead(ctx context.Context, debs Debs, required, base []string) (stop func(), err error) {
	if !t.onRAM {
		return func() {}, nil // all of it would go to the disk once more
	}
	dir := t.space.Path(filepath.Join(t.dir, archives))
	if err := debs.decompress(ctx, dir, required, runtime.NumCPU()); err != nil {
		return nil, err
	}
	backwards := slices.Clone(base)
	slices.Reverse(backwards)
	ctx, cancel := context.WithCancel(ctx)
	var rest sync.WaitGroup
	rest.Go(func() {
		// What fails here stays compressed: dpkg will say what is wrong with it.
		_ = debs.decompress(ctx, dir, backwards, max(1, runtime.NumCPU()-1))
	})
	return func() { cancel(); rest.Wait() }, nil
}

// writeScript writes a script of package scripts, for the space's root to read.
func writeScript(path, name string) error {
	text, err := scripts.FS.ReadFile(name)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, text, 0o644)
}

// explain adds to debootstrap's error what dpkg said, which it keeps in the tree.
func (t *Tree) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	var inner bytes.Buffer
	if t.space.Run(ctx, command.Cmd{Args: []string{"cat", filepath.Join(t.dir, "debootstrap", "debootstrap.log")}, Stdout: &inner}) != nil {
		return err
	}
	_, _ = t.log.Write(inner.Bytes())
	return fmt.Errorf("%w\nthe end of debootstrap's log:\n%s", err, lastLines(inner.Bytes(), 10))
}

// steps counts the lines of debootstrap that tell of a package.
type steps struct {
	stage *progress.Stage
	done  int64
	line  []byte
}

var step = regexp.MustCompile(`^I: (Extracting|Installing|Unpacking|Configuring) (.+)\.\.\.$`)

func (s *steps) Write(p []byte) (int, error) {
	for _, c := range p {
		if c != '\n' {
			s.line = append(s.line, c)
			continue
		}
		if match := step.FindSubmatch(s.line); match != nil {
			s.done++
			s.stage.Set(s.done)
			s.stage.Detail("%s %s", strings.ToLower(string(match[1])), match[2])
		}
		s.line = s.line[:0]
	}
	return len(p), nil
}

// predependencyFields are those that dpkg finds its order of installation with, and those
// that it insists on.
var predependencyFields = []string{
	"Package", "Version", "Architecture", "Multi-Arch", "Essential", "Priority", "Section", "Maintainer",
	"Pre-Depends", "Depends", "Provides", "Conflicts", "Breaks", "Replaces",
}

// writeSeed writes what debootstrap's second half needs to know, as the tarball that its
// first half would have made.
func writeSeed(path string, l lock.Lock, debs Debs, required, base []string) error {
	var paths, stanzas bytes.Buffer
	for _, f := range debs.files {
		fmt.Fprintf(&paths, "%s %s/%s\n", f.control.Package, archives, f.name)
		for _, key := range predependencyFields {
			if value := f.control.Values[key]; value != "" {
				fmt.Fprintf(&stanzas, "%s: %s\n", key, strings.Join(strings.Fields(value), " "))
			}
		}
		fmt.Fprintf(&stanzas, "Filename: %s/%s\n\n", archives, f.name) // else dpkg takes it for not available
	}
	source := l.Sources[0]
	// As apt names its lists; see apt_dest in debootstrap's functions.
	_, place, _ := strings.Cut(source.URI, "://")
	list := strings.ReplaceAll(place+"_dists/"+source.Codename+"/main/binary-"+l.Architecture+"/Packages", "/", "_")
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	// Readable by the space's root, who is another user outside.
	if err := file.Chmod(0o644); err != nil {
		return err
	}
	w := tar.NewWriter(file)
	for _, f := range []struct{ name, text string }{
		{"debootstrap/required", strings.Join(required, " ") + "\n"},
		{"debootstrap/base", strings.Join(base, " ") + "\n"},
		{"debootstrap/debpaths", paths.String()},
		{"var/lib/apt/lists/" + list, stanzas.String()},
	} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.text)), ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
		if _, err := io.WriteString(w, f.text); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), file.Close())
}

// asked puts the program that was asked for into an error instead of what led to it.
func asked(err error, args []string) error {
	if failed, ok := errors.AsType[*command.Error](err); ok {
		failed.Args = args
	}
	return err
}

// lastLines returns the last n lines of text, indented.
func lastLines(text []byte, n int) string {
	var all []string
	s := bufio.NewScanner(bytes.NewReader(text))
	for s.Scan() {
		all = append(all, "    "+s.Text())
	}
	return strings.Join(all[max(0, len(all)-n):], "\n")
}
