// Package source finds the image to install: in a folder of builds, in a release directory,
// or at the URL of one. What is signed is verified before any of it is used.
//
// From a URL come SHA256SUMS and its signature, then the manifest and the tarball that
// SHA256SUMS vouches for, into a folder in which they are like a build's results.
package source

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"ephemeral-builder/image"
	"ephemeral-builder/image/atomicfile"
	"ephemeral-builder/image/dirlock"
	"ephemeral-builder/image/fetch"
	"ephemeral-builder/image/openpgp"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/sums"
)

// DefaultKeyring is the administrator's keyring for importctl, machinectl and
// systemd-sysupdate.
const DefaultKeyring = "/etc/systemd/import-pubring.gpg"

// Limits of what is read before anything is known about it, in bytes.
const (
	maxSums      = 1 << 20 // importd's too
	maxSignature = 1 << 20
	maxManifest  = 16 << 20
)

// Options says which image is wanted, and where from.
type Options struct {
	From      string // folder of builds, release directory, or http(s) URL of one
	Keyring   string // file with the publisher's key, binary or armored; empty: DefaultKeyring, where there is a signature
	Name      string
	Version   string // the newest if empty
	Arch      string // systemd's name of it
	Downloads string // folder for what comes from a URL, made if absent
}

// Source is an image that can be installed. The manifest is there. So is the tarball, but
// for one from a URL: then it is there after [Source.Fetch].
type Source struct {
	image.Image
	URL *url.URL // of the release directory; nil for a folder
	Key string   // fingerprint of the key that signed; empty for a folder of builds

	sha256 string // of the tarball, from SHA256SUMS
	unlock func()
}

// Open finds the image and verifies what is signed. A URL always has to be signed, a folder
// only if there is a SHA256SUMS.gpg in it or a keyring was named. Errors wrap those of
// package openpgp. What is downloaded stays locked until [Source.Close].
func Open(ctx context.Context, rep *progress.Reporter, o Options) (*Source, error) {
	if strings.Contains(o.From, "://") {
		return open(ctx, rep, o)
	}
	img, err := image.Find(o.From, o.Name, o.Version, o.Arch)
	if err != nil {
		return nil, err
	}
	s := &Source{Image: img}
	list := filepath.Join(o.From, sums.Name)
	if _, err := os.Lstat(list + ".gpg"); errors.Is(err, fs.ErrNotExist) && o.Keyring == "" {
		return s, nil
	}
	stage := rep.Stage("signature")
	defer stage.Fail() // of no effect after Done
	keys, err := o.keys(o.From)
	if err != nil {
		return nil, err
	}
	if _, s.Key, err = keys.VerifyFile(list); err != nil {
		return nil, advise(err, o.From)
	}
	stage.Done("%s, by %s", list, s.Key)
	return s, nil
}

// Close lets others download.
func (s *Source) Close() {
	if s.unlock != nil {
		s.unlock()
	}
}

// Forget removes what was downloaded, once it is no longer needed.
func (s *Source) Forget() error {
	if s.URL == nil {
		return nil
	}
	return os.RemoveAll(filepath.Dir(s.Tarball))
}

// Fetch downloads the tarball, if it comes from a URL. It goes on where an earlier download
// stopped, whatever stopped it.
func (s *Source) Fetch(ctx context.Context, rep *progress.Reporter) error {
	if s.URL == nil {
		return nil
	}
	manifest, err := image.ReadManifest(s.Manifest)
	if err != nil {
		return err
	}
	stage := rep.Stage("download")
	defer stage.Fail()
	name := filepath.Base(s.Tarball)
	stage.Detail("%s", name)
	err = fetch.Get(ctx, fetch.File{
		URL: s.URL.JoinPath(name).String(), Path: s.Tarball, Size: manifest.Compressed.Size, SHA256: s.sha256,
	}, fetch.Options{Progress: func(done, total int64) {
		stage.Total(total)
		stage.Set(done)
	}})
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: free some space, and it goes on from there", err)
	} else if err != nil {
		return gone(err)
	}
	stage.Done("%s, %d MiB", name, manifest.Compressed.Size>>20)
	return nil
}

// open is [Open] for a URL.
func open(ctx context.Context, rep *progress.Reporter, o Options) (_ *Source, err error) {
	s := &Source{}
	if s.URL, err = url.Parse(o.From); err != nil || s.URL.Host == "" || s.URL.Scheme != "http" && s.URL.Scheme != "https" {
		return nil, errors.New("the URL to install from can't be used: give -from=https://HOST/PATH, or a folder")
	}
	shown := s.URL.Redacted()
	keys, err := o.keys(shown)
	if err != nil {
		return nil, err
	}
	stage := rep.Stage("signature")
	defer stage.Fail()
	var list []byte
	if list, s.Key, err = signed(ctx, s.URL, keys); err != nil {
		return nil, advise(err, shown)
	}
	stage.Done("%s, by %s", s.URL.JoinPath(sums.Name).Redacted(), s.Key)

	dir := filepath.Join(o.Downloads, o.Name)
	if s.unlock, err = dirlock.Make(ctx, dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := atomicfile.Write(filepath.Join(dir, sums.Name), list, 0o644); err != nil {
		return nil, err
	}
	listed, err := sums.Read(dir)
	if err != nil {
		return nil, err
	}
	pattern := image.Pattern(o.Name, o.Version, o.Arch)
	tarballs := slices.DeleteFunc(slices.Collect(maps.Keys(listed)), func(name string) bool {
		matches, err := path.Match(pattern, name)
		return !matches || err != nil
	})
	newest, err := image.Newest(tarballs)
	if err != nil {
		return nil, err
	}
	if newest == "" {
		return nil, fmt.Errorf("no %s in %s: look there for the name in the spec, and for the versions", pattern, shown)
	}
	s.sha256 = listed[newest]
	s.Tarball = filepath.Join(dir, newest)
	s.Manifest = strings.TrimSuffix(s.Tarball, ".tar.zst") + ".manifest.json"
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("removing earlier downloads: %w", err)
	}

	name := filepath.Base(s.Manifest)
	if err := sums.Verify(ctx, dir, name); !errors.Is(err, sums.ErrMissing) && !errors.Is(err, sums.ErrMismatch) {
		return s, err
	}
	// Not as a download: of a file with no known size a server could send any amount.
	manifest, err := fetch.Read(ctx, s.URL.JoinPath(name).String(), maxManifest, fetch.Options{})
	if err != nil {
		return nil, gone(err)
	}
	if err := atomicfile.Write(s.Manifest, manifest, 0o644); err != nil {
		return nil, err
	}
	if err := sums.Verify(ctx, dir, name); err != nil {
		return nil, fmt.Errorf("from %s: %w", shown, err)
	}
	return s, nil
}

// sweep removes what was downloaded of other versions.
func (s *Source) sweep() error {
	entries, err := os.ReadDir(filepath.Dir(s.Tarball))
	if err != nil {
		return err
	}
	keep := []string{s.Tarball, s.Tarball + ".partial", s.Manifest, filepath.Join(filepath.Dir(s.Tarball), sums.Name)}
	for _, entry := range entries {
		path := filepath.Join(filepath.Dir(s.Tarball), entry.Name())
		if slices.Contains(keep, path) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// signed returns the SHA256SUMS of a release directory, and the key that signed it.
func signed(ctx context.Context, dir *url.URL, keys openpgp.Keyring) (list []byte, key string, err error) {
	where := dir.JoinPath(sums.Name)
	read := func(name string, limit int64) ([]byte, error) {
		return fetch.Read(ctx, dir.JoinPath(name).String(), limit, fetch.Options{})
	}
	var before []byte
	for try := 1; ; try++ {
		list, err := read(sums.Name, maxSums)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, "", fmt.Errorf("%w: give the URL of a release directory", err)
		} else if err != nil {
			return nil, "", err
		}
		signature, err := read(sums.Name+".gpg", maxSignature)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, "", fmt.Errorf("%s: %w: there is no %s.gpg: ask the publisher for it", where.Redacted(), openpgp.ErrNoSignature, sums.Name)
		} else if err != nil {
			return nil, "", err
		}
		key, err = keys.Verify(list, signature)
		if err == nil {
			return list, key, nil
		}
		// A directory that is replaced between the two gives an old one and a new one.
		if try == 3 || bytes.Equal(list, before) {
			return nil, "", fmt.Errorf("%s: %w", where.Redacted(), err)
		}
		before = list
	}
}

// keys reads the keyring; at is the release directory.
func (o Options) keys(at string) (openpgp.Keyring, error) {
	keys, err := openpgp.ReadKeyring(cmp.Or(o.Keyring, DefaultKeyring))
	if errors.Is(err, fs.ErrNotExist) {
		err = withKey(err, at)
	}
	return keys, err
}

// advise says where the key comes from, if the error is that the keyring has not the right one.
func advise(err error, at string) error {
	for _, kind := range []error{openpgp.ErrWrongKey, openpgp.ErrExpired, openpgp.ErrRevoked} {
		if errors.Is(err, kind) {
			return withKey(err, at)
		}
	}
	return err
}

func withKey(err error, at string) error {
	return fmt.Errorf("%w; the publisher's key is %s/signing-key.asc: compare its fingerprint, as gpg --show-keys prints it, with what the publisher says elsewhere, then say -keyring=FILE", err, strings.TrimSuffix(at, "/"))
}

// gone explains a listed file that is not there.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w, though %s lists it: the directory may just have been replaced: try again", err, sums.Name)
	}
	return err
}
