package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"ephemeral-builder/image"
	"ephemeral-builder/image/fetch"
	"ephemeral-builder/image/openpgp"
	"ephemeral-builder/image/spec"
	"ephemeral-builder/image/sums"
)

var made = time.Now().Add(-24 * time.Hour).Truncate(time.Second)

// publisher has a key, and a release directory.
type publisher struct {
	*testing.T
	key *pgp.Entity
	dir string
}

// publish makes a release directory with images of this architecture and name.
func publish(t *testing.T, versions ...string) publisher {
	t.Helper()
	p := publisher{t, key(t, 0), t.TempDir()}
	for _, version := range versions {
		p.add("eb_" + version + "_x86-64")
	}
	p.sign()
	return p
}

// key makes a key that expires after some seconds.
func key(t *testing.T, seconds uint32) *pgp.Entity {
	t.Helper()
	e, err := pgp.NewEntity("release", "", "release@example.org", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: seconds, Time: func() time.Time { return made },
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// tarball is not one, which does not matter here.
func tarball(stem string) []byte { return bytes.Repeat([]byte(stem), 100_000) }

func (p publisher) add(stem string) {
	p.Helper()
	data := tarball(stem)
	parts := strings.Split(stem, "_")
	m := image.Manifest{Name: parts[0], Version: parts[1], Architecture: parts[2], Spec: spec.Default()}
	sum := sha256.Sum256(data)
	m.Compressed = image.File{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(data))}
	manifest, err := json.Marshal(m)
	if err != nil {
		p.Fatal(err)
	}
	p.write(stem+".tar.zst", data)
	p.write(stem+".manifest.json", manifest)
	if err := sums.Update(p.Context(), p.dir, stem+".tar.zst", stem+".manifest.json"); err != nil {
		p.Fatal(err)
	}
}

func (p publisher) write(name string, data []byte) {
	p.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), data, 0o644); err != nil {
		p.Fatal(err)
	}
}

func (p publisher) read(name string) []byte {
	p.Helper()
	data, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		p.Fatal(err)
	}
	return data
}

func (p publisher) remove(name string) {
	p.Helper()
	if err := os.Remove(filepath.Join(p.dir, name)); err != nil {
		p.Fatal(err)
	}
}

// flip alters one byte in the middle.
func (p publisher) flip(name string) {
	p.Helper()
	data := p.read(name)
	data[len(data)/2] ^= 1
	p.write(name, data)
}

func (p publisher) sign() {
	p.Helper()
	var signature bytes.Buffer
	err := pgp.DetachSign(&signature, []*pgp.Entity{p.key}, bytes.NewReader(p.read(sums.Name)), &packet.Config{
		Time: func() time.Time { return made.Add(time.Minute) }, // when an expired key was good
	})
	if err != nil {
		p.Fatal(err)
	}
	p.write(sums.Name+".gpg", signature.Bytes())
}

// keyring is a file with a public key.
func keyring(t *testing.T, e *pgp.Entity) string {
	t.Helper()
	var out bytes.Buffer
	if err := e.Serialize(&out); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.gpg")
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// options are those of somebody who has the publisher's key.
func (p publisher) options(from string) Options {
	return Options{From: from, Keyring: keyring(p.T, p.key), Name: "eb", Arch: "x86-64", Downloads: filepath.Join(p.TempDir(), "downloads")}
}

// server is a web server with a release directory, and what it was asked for.
type server struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string // "NAME RANGE"
}

// serve has a chance to answer otherwise than with the directory's files.
func (p publisher) serve(instead func(w http.ResponseWriter, r *http.Request) bool) *server {
	s := &server{}
	files := http.StripPrefix("/images", http.FileServer(http.Dir(p.dir)))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, strings.TrimSpace(filepath.Base(r.URL.Path)+" "+r.Header.Get("Range")))
		s.mu.Unlock()
		if instead == nil || !instead(w, r) {
			files.ServeHTTP(w, r)
		}
	}))
	p.Cleanup(s.Close)
	return s
}

func (s *server) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func mustOpen(t *testing.T, o Options) *Source {
	t.Helper()
	s, err := Open(t.Context(), nil, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, o Options) *Source {
	t.Helper()
	s := mustOpen(t, o)
	if err := s.Fetch(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// checkImage looks at an image as install does.
func checkImage(t *testing.T, s *Source, stem string) {
	t.Helper()
	dir := filepath.Dir(s.Tarball)
	parts := strings.Split(stem, "_")
	found, err := image.Find(dir, parts[0], "", parts[2])
	if err != nil || found != s.Image {
		t.Errorf("in the folder is %v, %v, want %v", found, err, s.Image)
	}
	if got := filepath.Base(s.Tarball); got != stem+".tar.zst" {
		t.Errorf("got %s, want %s.tar.zst", got, stem)
	}
	for _, path := range []string{s.Tarball, s.Manifest} {
		if err := sums.Verify(t.Context(), dir, filepath.Base(path)); err != nil {
			t.Error(err)
		}
	}
	if data, err := os.ReadFile(s.Tarball); err != nil || !bytes.Equal(data, tarball(stem)) {
		t.Errorf("%s does not have its contents, %v", s.Tarball, err)
	}
}

func TestURL(t *testing.T) {
	p := publish(t, "9", "10~rc1", "10")
	for _, stem := range []string{"other_11_x86-64", "eb_11_arm64", "eb_8.1~a+b-1_x86-64"} {
		p.add(stem)
	}
	p.sign()
	server := p.serve(nil)
	for _, test := range []struct{ path, version, want string }{
		{"/images", "", "eb_10_x86-64"},
		{"/images/", "9", "eb_9_x86-64"},
		{"/images", "8.1~a+b-1", "eb_8.1~a+b-1_x86-64"},
	} {
		t.Run(test.want, func(t *testing.T) {
			o := p.options(server.URL + test.path)
			o.Version = test.version
			s := get(t, o)
			checkImage(t, s, test.want)
			if s.URL.String() != o.From || len(s.Key) != 40 {
				t.Errorf("got URL %s and key %s, want %s and a fingerprint", s.URL, s.Key, o.From)
			}
			if err := s.Forget(); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(filepath.Join(o.Downloads, "eb")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("what was downloaded is still there: %v", err)
			}
		})
	}
}

// GitLab serves the files of a job at .../raw/dist/FILE?job=NAME.
func TestURLWithQuery(t *testing.T) {
	p := publish(t, "1")
	server := p.serve(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.RawQuery == "job=release" {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	checkImage(t, get(t, p.options(server.URL+"/images/?job=release")), "eb_1_x86-64")
}

// The image may be there already, when its manifest is compared with this one.
func TestTarballIsNotAskedForUntilFetch(t *testing.T) {
	p := publish(t, "1")
	server := p.serve(nil)
	mustOpen(t, p.options(server.URL+"/images"))
	want := []string{"SHA256SUMS", "SHA256SUMS.gpg", "eb_1_x86-64.manifest.json"}
	if got := server.requests(); !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
}

// What a killed install leaves is a part of the file, and no lock.
func TestResume(t *testing.T) {
	p := publish(t, "1")
	server := p.serve(nil)
	o := p.options(server.URL + "/images")
	name := "eb_1_x86-64.tar.zst"
	half := len(p.read(name)) / 2
	part := filepath.Join(o.Downloads, "eb", name+".partial")
	if err := os.MkdirAll(filepath.Dir(part), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(part, p.read(name)[:half], 0o644); err != nil {
		t.Fatal(err)
	}
	checkImage(t, get(t, o), "eb_1_x86-64")
	got := server.requests()
	if want := fmt.Sprintf("%s bytes=%d-", name, half); got[len(got)-1] != want {
		t.Errorf("asked for %q, want %q at the end", got, want)
	}
	if _, err := os.Lstat(part); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", part, err)
	}
}

func TestEarlierDownloadsAreRemoved(t *testing.T) {
	p := publish(t, "1")
	server := p.serve(nil)
	o := p.options(server.URL + "/images")
	get(t, o).Close()
	p.add("eb_2_x86-64")
	p.sign()
	checkImage(t, get(t, o), "eb_2_x86-64")
	left, err := filepath.Glob(filepath.Join(o.Downloads, "eb", "eb_1*"))
	if err != nil || len(left) > 0 {
		t.Errorf("got %q, %v, want nothing of version 1", left, err)
	}
}

// The directory is replaced between the answer with SHA256SUMS and that with its signature.
func TestReplacedMeanwhile(t *testing.T) {
	p := publish(t, "1")
	old := p.read(sums.Name)
	p.add("eb_2_x86-64")
	p.sign()
	var once sync.Once
	server := p.serve(func(w http.ResponseWriter, r *http.Request) (answered bool) {
		if filepath.Base(r.URL.Path) == sums.Name {
			once.Do(func() { _, _ = w.Write(old); answered = true })
		}
		return answered
	})
	checkImage(t, get(t, p.options(server.URL+"/images")), "eb_2_x86-64")
}

// One that changes at every look does not keep us for ever.
func TestReplacedAllTheTime(t *testing.T) {
	p := publish(t, "1")
	looks := 0
	server := p.serve(func(w http.ResponseWriter, r *http.Request) bool {
		if filepath.Base(r.URL.Path) == sums.Name {
			looks++
			_, _ = w.Write(bytes.Repeat([]byte("x"), looks))
			return true
		}
		return false
	})
	if _, err := Open(t.Context(), nil, p.options(server.URL+"/images")); !errors.Is(err, openpgp.ErrAltered) {
		t.Errorf("got %v, want %v", err, openpgp.ErrAltered)
	}
}

// endless answers with more than anybody wants.
func endless(name string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if filepath.Base(r.URL.Path) != name {
			return false
		}
		for block := make([]byte, 1<<20); ; {
			if _, err := w.Write(block); err != nil {
				return true
			}
		}
	}
}

func TestRefusedURL(t *testing.T) {
	const manifest, archive = "eb_1_x86-64.manifest.json", "eb_1_x86-64.tar.zst"
	expired := key(t, 3600)
	for _, test := range []struct {
		name   string
		spoil  func(p *publisher, o *Options)
		answer func(http.ResponseWriter, *http.Request) bool
		want   error
		says   string
	}{
		{"missing signature", func(p *publisher, o *Options) { p.remove("SHA256SUMS.gpg") }, nil,
			openpgp.ErrNoSignature, "images/SHA256SUMS: not signed: there is no SHA256SUMS.gpg: ask the publisher for it"},
		{"wrong key", func(p *publisher, o *Options) { o.Keyring = keyring(p.T, key(p.T, 0)) }, nil,
			openpgp.ErrWrongKey, "images/signing-key.asc: compare its fingerprint"},
		{"expired key", func(p *publisher, o *Options) { p.key = expired; p.sign(); o.Keyring = keyring(p.T, expired) }, nil,
			openpgp.ErrExpired, "images/signing-key.asc: compare its fingerprint"},
		{"altered sums", func(p *publisher, o *Options) { p.flip("SHA256SUMS") }, nil,
			openpgp.ErrAltered, "images/SHA256SUMS: altered after it was signed"},
		{"altered signature", func(p *publisher, o *Options) { p.write("SHA256SUMS.gpg", []byte("<html>")) }, nil,
			openpgp.ErrNoSignature, "fetch it again"},
		{"no keyring", func(p *publisher, o *Options) { o.Keyring = "/nonexistent/key.gpg" }, nil,
			fs.ErrNotExist, "no keyring: open /nonexistent/key.gpg"},
		{"empty keyring", func(p *publisher, o *Options) { o.Keyring = os.DevNull }, nil,
			nil, "no OpenPGP key in it"},
		{"altered manifest", func(p *publisher, o *Options) { p.flip(manifest) }, nil,
			sums.ErrMismatch, manifest},
		{"missing manifest", func(p *publisher, o *Options) { p.remove(manifest) }, nil,
			fs.ErrNotExist, "the directory may just have been replaced: try again"},
		{"altered tarball", func(p *publisher, o *Options) { p.flip(archive) }, nil,
			fetch.ErrMismatch, archive + ": not the expected file: its SHA-256 is"},
		{"truncated tarball", func(p *publisher, o *Options) { p.write(archive, p.read(archive)[:1000]) }, nil,
			fetch.ErrMismatch, "it has 1000 bytes"},
		{"missing tarball", func(p *publisher, o *Options) { p.remove(archive) }, nil,
			fs.ErrNotExist, "the directory may just have been replaced: try again"},
		{"no such version", func(p *publisher, o *Options) { o.Version = "2" }, nil,
			nil, "no eb_2_x86-64.tar.zst in http"},
		{"no such name", func(p *publisher, o *Options) { o.Name = "nobody" }, nil,
			nil, "no nobody_*_x86-64.tar.zst in http"},
		{"not a release directory", func(p *publisher, o *Options) { o.From += "/elsewhere" }, nil,
			fs.ErrNotExist, "give the URL of a release directory"},
		{"other protocol", func(p *publisher, o *Options) { o.From = "ftp://user:secret@example.org/images" }, nil,
			nil, "give -from=https://HOST/PATH"},
		{"no URL", func(p *publisher, o *Options) { o.From = "https://user:secret@" }, nil,
			nil, "give -from=https://HOST/PATH"},
		{"endless sums", nil, endless(sums.Name), nil, "more than 1048576 bytes"},
		{"endless signature", nil, endless(sums.Name + ".gpg"), nil, "more than 1048576 bytes"},
		{"endless manifest", nil, endless(manifest), nil, "more than 16777216 bytes"},
		{"endless tarball", nil, endless(archive), fetch.ErrMismatch, "not the expected file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := publish(t, "1")
			o := p.options("")
			o.From = p.serve(test.answer).URL + "/images"
			if test.spoil != nil {
				test.spoil(&p, &o)
			}
			s, err := Open(t.Context(), nil, o)
			if err == nil {
				defer s.Close()
				err = s.Fetch(t.Context(), nil)
			}
			if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %v that says %q", err, test.want, test.says)
			} else if strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is in the error: %v", err)
			}
			if found, err := image.Find(filepath.Join(o.Downloads, "eb"), "eb", "", "x86-64"); err == nil {
				t.Errorf("it left %s", found.Tarball)
			}
			// Nobody else has to wait.
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			good := publish(t, "3")
			after := good.options(good.serve(nil).URL + "/images")
			after.Downloads = o.Downloads
			if s != nil {
				s.Close()
			}
			next, err := Open(ctx, nil, after)
			if err != nil {
				t.Fatal(err)
			}
			next.Close()
		})
	}
}

func TestFolderOfBuilds(t *testing.T) {
	p := publish(t, "1", "2")
	p.remove("SHA256SUMS.gpg")
	o := p.options(p.dir)
	if _, err := Open(t.Context(), nil, o); !errors.Is(err, openpgp.ErrNoSignature) {
		t.Errorf("with a keyring: got %v, want %v", err, openpgp.ErrNoSignature)
	}
	o.Keyring = ""
	s := get(t, o)
	checkImage(t, s, "eb_2_x86-64")
	if s.URL != nil || s.Key != "" {
		t.Errorf("got URL %v and key %q, want none", s.URL, s.Key)
	}
	if err := s.Forget(); err != nil {
		t.Fatal(err)
	}
	checkImage(t, s, "eb_2_x86-64")
}

func TestReleaseDirectory(t *testing.T) {
	p := publish(t, "1", "2")
	s := get(t, p.options(p.dir))
	checkImage(t, s, "eb_2_x86-64")
	if s.URL != nil || len(s.Key) != 40 {
		t.Errorf("got URL %v and key %q, want none and a fingerprint", s.URL, s.Key)
	}

	o := p.options(p.dir)
	o.Keyring = keyring(t, key(t, 0))
	if _, err := Open(t.Context(), nil, o); !errors.Is(err, openpgp.ErrWrongKey) || !strings.Contains(err.Error(), p.dir+"/signing-key.asc") {
		t.Errorf("wrong key: got %v, want %v", err, openpgp.ErrWrongKey)
	}
	o.Keyring = "/nonexistent/key.gpg"
	if _, err := Open(t.Context(), nil, o); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), p.dir+"/signing-key.asc") {
		t.Errorf("no keyring: got %v, want %v", err, fs.ErrNotExist)
	}
	p.flip("SHA256SUMS")
	if _, err := Open(t.Context(), nil, p.options(p.dir)); !errors.Is(err, openpgp.ErrAltered) {
		t.Errorf("altered: got %v, want %v", err, openpgp.ErrAltered)
	}
	if _, err := os.Lstat(DefaultKeyring); err == nil {
		t.Skip("this machine has ", DefaultKeyring)
	}
	o.Keyring = ""
	if _, err := Open(t.Context(), nil, o); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), DefaultKeyring) {
		t.Errorf("signed, and no keyring: got %v, want %v", err, fs.ErrNotExist)
	}
}
