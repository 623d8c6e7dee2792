// Package release publishes images: it assembles a folder that a plain web server can
// serve, with all versions, from which machinectl, importctl and systemd-sysupdate take
// them as it is.
//
//	NAME_VERSION_ARCH.tar.zst      as built
//	NAME_VERSION_ARCH.tar.xz       the same tar, for systemd 257 and older
//	NAME_VERSION_ARCH.md           what changed since the version before
//	NAME_VERSION_ARCH.manifest.json, .lock, .cdx.json, .spdx.json, .provenance.json
//	SHA256SUMS                     every file of the folder itself but this and the next one
//	SHA256SUMS.gpg                 its signature, detached and binary
//	signing-key.asc                the public key, for people and gpg --import
//	import-pubring.gpg             the same, to be copied to /etc/systemd/import-pubring.gpg
//
// There is never a NAME.sha256: systemd 257 and older ask for it before SHA256SUMS, and
// then want the signature inside of it.
//
// The folder is replaced as a whole, by exchanging two names (renameat2(2)), so that a
// reader finds the one from before or the one from after. Killed at any point, a release
// leaves the one from before, and beside it OUT.new-NUMBER, which the next one removes.
// A file that stays is a hard link to the one from before: nothing may write to a published
// file in place.
package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ephemeral-builder/image"
	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/image/openpgp"
	"ephemeral-builder/image/prereq"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/sums"
)

// Names of the files with the public key.
const (
	KeyName     = "signing-key.asc"
	KeyringName = "import-pubring.gpg"
)

// Options says what to publish, and where.
type Options struct {
	From string // folder of builds: images, their side files, SHA256SUMS
	Out  string // the published folder; made if absent, and ours if it has a SHA256SUMS
	Keep int    // newest versions to keep of each name and architecture; 0 means all

	Signer   *openpgp.Signer // signs SHA256SUMS; nil only with Unsigned
	Unsigned bool            // publishes without a signature, which systemd refuses by default
	Adopt    bool            // signs what is in Out already though its SHA256SUMS is not signed by Signer
	Time     time.Time       // of the signature: SOURCE_DATE_EPOCH; zero means now

	Generators []Generator
	Trees      []string // folders in Out that the generators make; others are not ours to replace

	exchange func(a, b string) error // renameat2's, but for tests
}

// Generator adds further files to dir, the folder that will be published, or to folders in
// it that [Options].Trees names. All images are there with their files, those of earlier
// versions too. These may be hard links to published ones: it must not write to them. The
// folders are not there: it makes them anew, with hard links to those in Out if that
// saves work. Files in dir itself get into SHA256SUMS.
type Generator func(ctx context.Context, dir string, images []Image) error

// Image is one published version.
type Image struct {
	Manifest image.Manifest
	Files    []string // bare names, sorted; each is Manifest.Stem() and a suffix such as ".tar.xz"
}

// Result is what a release did. Names are stems: NAME_VERSION_ARCH.
type Result struct {
	Images  []Image  // what is published now, by name and architecture, newest first
	Added   []string // new in the folder
	Removed []string // too old by Keep
	Skipped []string // in From, but too old by Keep
	Changed bool     // whether the folder was replaced; if not, it is as it should be
}

// Make publishes the images of o.From in o.Out, beside those that are there. All files in both
// are compared with their SHA256SUMS first. Two releases into folders with the same parent
// wait for each other. An error leaves o.Out as it was; it wraps syscall.ENOSPC for a
// full disk, and those of package sums for files that are not as they should be.
func Make(ctx context.Context, rep *progress.Reporter, o Options) (_ Result, err error) {
	if o, err = o.check(); err != nil {
		return Result{}, err
	}
	defer func() {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			err = fmt.Errorf("%w: free space there, or keep fewer versions with -keep=N", err)
		}
	}()
	if err := prereq.Ensure(ctx, rep, prereq.Need{Program: "xz", Package: "xz-utils"}); err != nil {
		return Result{}, err
	}
	parent := filepath.Dir(o.Out)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return Result{}, err
	}
	unlock, err := dirlock.Lock(ctx, parent)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	if err := sweep(o.Out); err != nil {
		return Result{}, fmt.Errorf("removing what a killed release left: %w", err)
	}

	p, err := plan(ctx, rep, o)
	if err != nil {
		return Result{}, err
	}
	work, err := os.MkdirTemp(parent, filepath.Base(o.Out)+newInfix+"*")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(work)
	result, err := p.assemble(ctx, rep, work)
	if err != nil {
		return Result{}, err
	}

	stage := rep.Stage("publish")
	defer stage.Fail()
	if same, err := equal(ctx, o.Out, work); err != nil {
		return Result{}, err
	} else if same {
		stage.Done("%s is as it should be: nothing changed", o.Out)
		return result, nil
	}
	if err := settle(work, o.Out); err != nil {
		return Result{}, err
	}
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	if err := replace(work, o.Out, o.exchange); err != nil {
		return Result{}, err
	}
	result.Changed = true
	stage.Done("%d versions in %s, %d new, %d removed", len(result.Images), o.Out, len(result.Added), len(result.Removed))
	return result, nil
}

// check completes o, or says what is wrong with it.
func (o Options) check() (Options, error) {
	if o.Signer == nil && !o.Unsigned {
		return o, errors.New("no key to sign SHA256SUMS with: say -key=FILE or set EPHEMERAL_BUILDER_SIGNING_KEY, or publish without with -unsigned")
	}
	if o.Signer != nil && o.Unsigned {
		return o, errors.New("a key and -unsigned: leave out one of them")
	}
	if o.Keep < 0 {
		return o, fmt.Errorf("can't keep %d versions: say -keep=N, 0 for all", o.Keep)
	}
	if o.Time.IsZero() {
		o.Time = time.Now()
	}
	if o.exchange == nil {
		o.exchange = func(a, b string) error {
			return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
		}
	}
	var err error
	if o.Out, err = filepath.Abs(o.Out); err != nil {
		return o, err
	}
	out, err := filepath.EvalSymlinks(o.Out) // the folder is replaced, not the link to it
	if err == nil {
		o.Out = out
	} else if !errors.Is(err, fs.ErrNotExist) {
		return o, err
	} else if _, err := os.Lstat(o.Out); err == nil {
		return o, fmt.Errorf("%s is a link that leads nowhere: remove it", o.Out)
	}
	from, err := os.Stat(o.From)
	if err != nil {
		return o, fmt.Errorf("no images to publish: %w: build one with: go tool mage build", err)
	}
	info, err := os.Stat(o.Out)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	} else if err != nil {
		return o, err
	}
	if !info.IsDir() {
		return o, fmt.Errorf("%s is not a folder: give another with -out", o.Out)
	}
	if os.SameFile(from, info) {
		return o, fmt.Errorf("%s is the folder of the builds: give another with -out", o.Out)
	}
	up, err := os.Stat(filepath.Dir(o.Out))
	if err != nil {
		return o, err
	}
	if info.Sys().(*syscall.Stat_t).Dev != up.Sys().(*syscall.Stat_t).Dev {
		return o, fmt.Errorf("%s is where a file system is mounted, and so can't be replaced: give a folder in it with -out", o.Out)
	}
	return o, nil
}

// assemble makes the new folder in work.
func (p *planned) assemble(ctx context.Context, rep *progress.Reporter, work string) (Result, error) {
	for _, img := range p.keep {
		if err := p.place(ctx, rep, work, img); err != nil {
			return Result{}, err
		}
	}
	for _, name := range p.extra {
		if err := link(ctx, filepath.Join(p.Out, name), filepath.Join(work, name), ""); err != nil {
			return Result{}, err
		}
	}
	if p.Signer != nil {
		key, err := p.Signer.PublicKey()
		if err != nil {
			return Result{}, err
		}
		ring, err := p.Signer.Keyring()
		if err != nil {
			return Result{}, err
		}
		for name, data := range map[string][]byte{KeyName: key, KeyringName: ring} {
			if err := os.WriteFile(filepath.Join(work, name), data, 0o644); err != nil {
				return Result{}, err
			}
		}
	}

	result := Result{Added: p.added, Removed: p.removed, Skipped: p.skipped}
	for _, img := range p.keep {
		files, err := filepath.Glob(filepath.Join(work, img.stem+".*"))
		if err != nil {
			return Result{}, err
		}
		for i := range files {
			files[i] = filepath.Base(files[i])
		}
		result.Images = append(result.Images, Image{Manifest: img.manifest, Files: files})
	}
	for _, generate := range p.Generators {
		if err := generate(ctx, work, slices.Clone(result.Images)); err != nil {
			return Result{}, err
		}
	}
	return result, p.seal(ctx, work)
}

// seal writes SHA256SUMS and its signature. What is published already, or was compared with
// the sums of its build, is not hashed again: a file that was altered since does not get
// a good sum.
func (p *planned) seal(ctx context.Context, work string) error {
	entries, err := os.ReadDir(work)
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, entry := range entries { // sorted by name
		name := entry.Name()
		if strings.HasSuffix(name, ".sha256") {
			return fmt.Errorf("%s would keep systemd 257 and older from reading %s: leave it out", name, sums.Name)
		}
		if entry.IsDir() && !slices.Contains(p.Trees, name) {
			return fmt.Errorf("a generator made the folder %s, which the next release would not replace: name it in Trees", name)
		}
		if entry.IsDir() || slices.Contains(p.extra, name) {
			continue
		}
		sum, ok := p.sums[name]
		if !ok {
			if sum, err = digest(ctx, filepath.Join(work, name)); err != nil {
				return err
			}
		}
		fmt.Fprintf(&text, "%s  %s\n", sum, name)
	}
	if text.Len() > 1<<20 {
		return fmt.Errorf("%s would exceed the 1 MiB that systemd reads: keep fewer versions with -keep=N", sums.Name)
	}
	path := filepath.Join(work, sums.Name)
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		return err
	}
	if p.Signer == nil {
		return nil
	}

	// A second signature of the same text would be a change where there is none.
	old, before := filepath.Join(p.Out, sums.Name), ""
	if verified, err := p.verify(old); err == nil {
		before = string(verified)
	}
	if before == text.String() {
		return link(ctx, old+".gpg", path+".gpg", "")
	}
	sig, err := p.Signer.Sign([]byte(text.String()), p.Time)
	if err != nil {
		return err
	}
	return os.WriteFile(path+".gpg", sig, 0o644)
}

// verify returns the text of a SHA256SUMS that our own key signed.
func (o Options) verify(path string) ([]byte, error) {
	ring, err := o.Signer.Keyring()
	if err != nil {
		return nil, err
	}
	keys, err := openpgp.ParseKeyring(ring)
	if err != nil {
		return nil, err
	}
	text, _, err := keys.VerifyFile(path)
	return text, err
}
