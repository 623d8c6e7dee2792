package apt

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/command"
	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/image/progress"
)

//go:embed apt.conf
var conf string

// private is a folder in which apt works for us, and for nobody else at the time.
type private struct {
	Options
	Dir   string // absolute, and only for these sources and this architecture
	stage *progress.Stage
}

func prepare(ctx context.Context, stage *progress.Stage, o Options) (*private, func(), error) {
	sources, err := deb822(o)
	if err != nil {
		return nil, nil, err
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, nil, err
	}
	// apt removes lists that belong to none of its sources.
	sum := sha256.Sum256([]byte(sources))
	dir = filepath.Join(dir, hex.EncodeToString(sum[:8]))
	p := &private{Options: o, Dir: dir, stage: stage}

	stage.Detail("waiting for another build that uses %s", dir)
	unlock, err := dirlock.Make(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	if err := p.write(sources); err != nil {
		unlock()
		return nil, nil, err
	}
	return p, unlock, nil
}

func (p *private) write(sources string) error {
	for _, dir := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(p.Dir, dir), 0o755); err != nil {
			return err
		}
	}
	var config strings.Builder
	if err := template.Must(template.New("").Parse(conf)).Execute(&config, p); err != nil {
		return err
	}
	for name, text := range map[string]string{"apt.conf": config.String(), "debian.sources": sources, "status": ""} {
		path := filepath.Join(p.Dir, name)
		// A new time stamp would have apt read all its lists again.
		if old, err := os.ReadFile(path); err == nil && string(old) == text {
			continue
		}
		if err := atomicfile.Write(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// deb822 writes sources as sources.list(5) has them, a stanza each.
func deb822(o Options) (string, error) {
	var b strings.Builder
	for _, s := range o.Sources {
		for _, word := range append([]string{s.URI, s.Suite}, s.Components...) {
			if word == "" || strings.ContainsAny(word, " \t\r\n") {
				return "", fmt.Errorf("source %q, suite %q: each of URI, suite and components must be one word", s.URI, s.Suite)
			}
		}
		signedBy := " " + Keyring
		if s.Key != nil {
			key, err := armored(s.Key)
			if err != nil {
				return "", err
			}
			signedBy = "\n " + strings.ReplaceAll(strings.ReplaceAll(key, "\n\n", "\n.\n"), "\n", "\n ")
		} else if _, err := os.Stat(Keyring); err != nil {
			return "", fmt.Errorf("the keys of the Debian archive are missing: install debian-archive-keyring: %w", err)
		}
		fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nArchitectures: %s\nTargets: Packages\nPDiffs: no\nSigned-By:%s\n\n",
			s.URI, s.Suite, strings.Join(s.Components, " "), o.Arch, signedBy)
	}
	return b.String(), nil
}

// armored puts a key into ASCII armor, which apt takes within a source since 2.3.10: a
// path there must have no blanks in it, and a user's cache folder may.
func armored(key []byte) (string, error) {
	var b strings.Builder
	w, err := armor.Encode(&b, "PGP PUBLIC KEY BLOCK", nil)
	if err != nil {
		return "", err
	}
	if _, err := w.Write(key); err != nil {
		return "", err
	}
	err = w.Close() // writes the last lines
	return b.String(), err
}

// get runs apt-get and returns what it printed. A failure is told by explain, in place of
// the pages that apt has about it.
func (p *private) get(ctx context.Context, explain func(stdout, stderr string) error, args ...string) (string, error) {
	// apt 2.6 leaves each key that is written within a source behind.
	temp, err := os.MkdirTemp("", "apt-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	var stdout, stderr bytes.Buffer
	var out io.Writer = &stdout
	if args[0] == "update" { // the only thing that takes time
		out = io.MultiWriter(&stdout, p.stage)
	}
	err = command.Run(ctx, command.Cmd{
		Args:   append([]string{"apt-get", "--config-file=" + filepath.Join(p.Dir, "apt.conf")}, args...),
		Env:    []string{"LC_ALL=C", "TMPDIR=" + temp},
		Stdout: out,
		Stderr: &stderr,
	})
	if exit := (*command.Error)(nil); err != nil && ctx.Err() == nil && errors.As(err, &exit) && stderr.Len() > 0 {
		return "", explain(stdout.String(), stderr.String())
	}
	return stdout.String(), err
}

// firstError is the first error in what apt printed, on one line.
func firstError(stderr string) error {
	for line := range strings.Lines(stderr) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "E: "); ok {
			return fmt.Errorf("apt-get: %s", text)
		}
	}
	return fmt.Errorf("apt-get: %s", strings.TrimSpace(stderr))
}
