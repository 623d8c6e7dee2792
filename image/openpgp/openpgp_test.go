package openpgp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"ephemeral-builder/image/command"
)

var text = []byte("2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806  a\n")

// made is when the keys of the tests were made, unless they say otherwise.
var made = time.Now().Add(-24 * time.Hour).Truncate(time.Second)

// generate makes a key, an EdDSA one of version 4 unless change says otherwise.
func generate(t *testing.T, change func(*packet.Config)) *pgp.Entity {
	t.Helper()
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return made }}
	if change != nil {
		change(config)
	}
	e, err := pgp.NewEntity("release", "", "release@example.org", config)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// private is what `gpg --armor --export-secret-keys` prints for keys.
func private(t *testing.T, keys ...*pgp.Entity) string {
	t.Helper()
	var out bytes.Buffer
	w, err := armor.Encode(&out, pgp.PrivateKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range keys {
		if err := e.SerializePrivateWithoutSigning(w, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func load(t *testing.T, key, passphrase string) *Signer {
	t.Helper()
	s, err := LoadSigner(key, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func signer(t *testing.T) *Signer { return load(t, private(t, generate(t, nil)), "") }

func sign(t *testing.T, s *Signer) []byte {
	t.Helper()
	sig, err := s.Sign(text, made.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func binaryKeyring(t *testing.T, s *Signer) []byte {
	t.Helper()
	ring, err := s.Keyring()
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func armoredKey(t *testing.T, s *Signer) []byte {
	t.Helper()
	key, err := s.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestSignAndVerify(t *testing.T) {
	one, two := signer(t), signer(t)
	path := filepath.Join(t.TempDir(), "SHA256SUMS")
	for name, data := range map[string][]byte{path: text, path + ".gpg": sign(t, one)} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	both := bytes.Join([][]byte{binaryKeyring(t, two), binaryKeyring(t, one)}, nil)
	armoredBoth := bytes.Join([][]byte{armoredKey(t, two), []byte("some words between\n"), armoredKey(t, one)}, nil)
	for name, data := range map[string][]byte{
		"binary": binaryKeyring(t, one), "armored": armoredKey(t, one), "two": both, "two armored": armoredBoth,
	} {
		ring, err := ParseKeyring(data)
		if err != nil {
			t.Fatal(err)
		}
		got, fingerprint, err := ring.VerifyFile(path)
		if err != nil || !bytes.Equal(got, text) || fingerprint != one.Fingerprint() {
			t.Errorf("%s keyring: got %q, %q, %v, want the text, %q", name, got, fingerprint, err, one.Fingerprint())
		}
	}
	if got, err := one.Sign(text, made.Add(time.Hour)); err != nil || !bytes.Equal(got, sign(t, one)) {
		t.Errorf("a second signature differs from the first, %v", err)
	}
}

func TestArmoredSignature(t *testing.T) {
	s := signer(t)
	var out bytes.Buffer
	w, err := armor.Encode(&out, pgp.SignatureType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(sign(t, s)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := (Keyring{pgp.EntityList{s.entity}}).Verify(text, out.Bytes()); err != nil {
		t.Error(err)
	}
}

func TestVerifyErrors(t *testing.T) {
	s, other := signer(t), signer(t)
	good := sign(t, s)
	altered := bytes.Clone(good)
	altered[len(altered)-1] ^= 1
	id := keyID(s.key.PublicKey.KeyId)

	expired := generate(t, func(c *packet.Config) { c.KeyLifetimeSecs = 3600 })
	revoked := generate(t, nil)
	if err := revoked.Revoke(packet.KeyCompromised, "", nil); err != nil {
		t.Fatal(err)
	}
	lib := func(e *pgp.Entity, change func(*packet.Config)) []byte { // signs as others may
		config := &packet.Config{Time: func() time.Time { return made.Add(time.Minute) }}
		if change != nil {
			change(config)
		}
		var out bytes.Buffer
		if err := pgp.DetachSign(&out, []*pgp.Entity{e}, bytes.NewReader(text), config); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	limited := lib(s.entity, func(c *packet.Config) { c.SigLifetimeSecs = 60 })
	conditional := lib(s.entity, func(c *packet.Config) {
		c.SignatureNotations = []*packet.Notation{{Name: "only@example.org", IsCritical: true}}
	})
	var textual bytes.Buffer
	if err := pgp.DetachSignWithParams(&textual, []*pgp.Entity{s.entity}, bytes.NewReader(text), &pgp.SignParams{TextSig: true}); err != nil {
		t.Fatal(err)
	}

	tests := []struct {
		name      string
		ring      *pgp.Entity
		text, sig []byte
		want      error
		message   string
	}{
		{"text", s.entity, append(bytes.Clone(text), 'x'), good, ErrAltered, "after it was signed by " + id},
		{"signature", s.entity, text, altered, ErrAltered, ""},
		{"other key", other.entity, text, good, ErrWrongKey, "by " + id + ", while the keyring has " + keyID(other.key.PublicKey.KeyId)},
		{"no signature", s.entity, text, nil, ErrNoSignature, "no signature in"},
		{"cut short", s.entity, text, good[:len(good)/2], ErrNoSignature, "can't be read"},
		{"key for signature", s.entity, text, binaryKeyring(t, s), ErrNoSignature, "type 0x13"},
		{"web page", s.entity, text, []byte("<html>404</html>"), ErrNoSignature, ""},
		{"expired key", expired, text, lib(expired, nil), ErrExpired, fingerprint(expired)},
		{"revoked key", revoked, text, forge(t, revoked), ErrRevoked, fingerprint(revoked)},
		{"limited time", s.entity, text, limited, ErrNoSignature, "limited time"},
		{"condition", s.entity, text, conditional, ErrNoSignature, "only@example.org"},
		{"textual", s.entity, text, textual.Bytes(), ErrNoSignature, "type 0x1"},
		{"before its key", s.entity, text, forge(t, s.entity), ErrNoSignature, "before the key was made"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Keyring{pgp.EntityList{test.ring}}.Verify(test.text, test.sig)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.message) {
				t.Errorf("got %v, want %v with %q", err, test.want, test.message)
			}
		})
	}
}

// forge signs what Sign would not: a week before the key was made, with whatever key.
func forge(t *testing.T, e *pgp.Entity) []byte {
	t.Helper()
	sig := &packet.Signature{Version: 4, SigType: packet.SigTypeBinary, PubKeyAlgo: e.PrimaryKey.PubKeyAlgo,
		Hash: 7 /* SHA-512 */, CreationTime: made.Add(-7 * 24 * time.Hour), IssuerKeyId: &e.PrimaryKey.KeyId}
	h, err := sig.PrepareSign(nil)
	if err != nil {
		t.Fatal(err)
	}
	h.Write(text)
	if err := sig.Sign(h, e.PrivateKey, nil); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := sig.Serialize(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestVerifyFileErrors(t *testing.T) {
	s := signer(t)
	ring := Keyring{pgp.EntityList{s.entity}}
	path := filepath.Join(t.TempDir(), "SHA256SUMS")
	if _, _, err := ring.VerifyFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ring.VerifyFile(path); !errors.Is(err, ErrNoSignature) || !strings.Contains(err.Error(), path+".gpg") {
		t.Errorf("no signature: got %v", err)
	}
	if _, err := ReadKeyring(path); err == nil || !strings.Contains(err.Error(), "not a keyring") {
		t.Errorf("keyring of text: got %v", err)
	}
	if _, err := ReadKeyring(path + ".none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing keyring: got %v", err)
	}
}

func TestTimeOfSignature(t *testing.T) {
	s := signer(t)
	for name, test := range map[string]struct{ at, want time.Time }{
		"given":          {made.Add(time.Hour), made.Add(time.Hour)},
		"before the key": {time.Unix(1, 0), made},
	} {
		data, err := s.Sign(text, test.at)
		if err != nil {
			t.Fatal(name, err)
		}
		sigs, err := signatures(data)
		if err != nil || len(sigs) != 1 || !sigs[0].CreationTime.Equal(test.want) || len(sigs[0].Notations) > 0 {
			t.Errorf("%s: got %+v, %v, want one of %v without notation", name, sigs, err, test.want)
		}
	}
	data, err := s.Sign(text, time.Now().AddDate(10, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if sigs, _ := signatures(data); sigs[0].CreationTime.After(time.Now()) {
		t.Errorf("got a signature of %v, want now at most", sigs[0].CreationTime)
	}
}

func TestLoadSignerErrors(t *testing.T) {
	good := private(t, generate(t, nil))
	locked := generate(t, nil)
	if err := locked.EncryptPrivateKeys([]byte("right"), nil); err != nil {
		t.Fatal(err)
	}
	expired := generate(t, func(c *packet.Config) { c.KeyLifetimeSecs = 3600 })
	revoked := generate(t, nil)
	if err := revoked.Revoke(packet.NoReason, "", nil); err != nil {
		t.Fatal(err)
	}
	future := generate(t, func(c *packet.Config) { c.Time = func() time.Time { return time.Now().AddDate(1, 0, 0) } })
	modern := generate(t, func(c *packet.Config) { c.Algorithm = packet.PubKeyAlgoEd25519 })
	one, two := generate(t, nil), generate(t, nil)
	public := string(armoredKey(t, load(t, good, "")))
	body := strings.Split(good, "\n")[3]

	tests := []struct {
		name, key, passphrase string
		want                  error
		message               string
	}{
		{"public", public, "", nil, "only the public key"},
		{"expired", private(t, expired), "", ErrExpired, fingerprint(expired)},
		{"revoked", private(t, revoked), "", ErrRevoked, fingerprint(revoked)},
		{"of the future", private(t, future), "", nil, "set this machine's clock"},
		{"new kind", private(t, modern), "", nil, "gpg 2.2 of Debian 12 can't read"},
		{"no passphrase", private(t, locked), "", nil, "set EPHEMERAL_BUILDER_SIGNING_PASSPHRASE"},
		{"wrong passphrase", private(t, locked), "wrong", nil, "passphrase is wrong"},
		{"several", private(t, one, two), "", nil, fmt.Sprintf("several keys (%s, %s)", fingerprint(one), fingerprint(two))},
		{"line breaks lost", strings.ReplaceAll(good, "\n", " "), "", nil, "line breaks"},
		{"cut short", good[:len(good)/2], "", nil, "can't be read"},
		{"first line lost", good[strings.Index(good, "\n"):], "", nil, "neither a file nor an armored key"},
		{"one line of base64", strings.Repeat(body, 10), "", nil, "neither a file nor an armored key"},
		{"empty", "", "", nil, "neither a file nor an armored key"},
		{"no file", "/nonexistent/key", "", fs.ErrNotExist, "/nonexistent/key"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := LoadSigner(test.key, test.passphrase)
			if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.message) {
				t.Fatalf("got %v, want %v with %q", err, test.want, test.message)
			}
			for line := range strings.SplitSeq(test.key, "\n") {
				if len(line) > 30 && strings.Contains(err.Error(), line) {
					t.Errorf("got %q, which has a part of the key", err)
				}
			}
		})
	}
	if s := load(t, private(t, locked), "right"); len(sign(t, s)) == 0 {
		t.Error("no signature with the right passphrase")
	}
}

func TestSignerFromFile(t *testing.T) {
	e := generate(t, nil)
	path := filepath.Join(t.TempDir(), "key")
	var raw bytes.Buffer
	if err := e.SerializePrivateWithoutSigning(&raw, nil); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"armored": []byte(private(t, e)), "binary": raw.Bytes()} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := load(t, path, "").Fingerprint(); got != fingerprint(e) {
			t.Errorf("%s: got %s, want %s", name, got, fingerprint(e))
		}
	}
}

func TestSignerIsNotPrinted(t *testing.T) {
	s := signer(t)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
		if got, want := fmt.Sprintf(verb, s), "key "+s.Fingerprint(); got != want {
			t.Errorf("%s: got %q, want %q", verb, got, want)
		}
	}
}

func TestExportIsStableAndPublic(t *testing.T) {
	e := generate(t, nil)
	for i := range 8 {
		if err := e.AddUserId(fmt.Sprint("other", i), "", "", &packet.Config{Time: func() time.Time { return made }}); err != nil {
			t.Fatal(err)
		}
	}
	key := private(t, e)
	first := binaryKeyring(t, load(t, key, ""))
	for range 8 {
		if got := binaryKeyring(t, load(t, key, "")); !bytes.Equal(got, first) {
			t.Fatal("two exports of a key differ")
		}
	}
	keys, err := parse(first)
	if err != nil || len(keys) != 1 || len(keys[0].Identities) != 9 || keys[0].PrivateKey != nil {
		t.Errorf("got %v, %v, want one public key with 9 names", keys, err)
	}
}

// files writes what a published directory has into a new one.
func files(t *testing.T, s *Signer, sig []byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"SHA256SUMS": text, "SHA256SUMS.gpg": sig, "import-pubring.gpg": binaryKeyring(t, s), "signing-key.asc": armoredKey(t, s),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// consumers are the programs that check a signature. systemd runs the last one.
var consumers = [][]string{
	{"sqv", "--keyring", "signing-key.asc", "SHA256SUMS.gpg", "SHA256SUMS"},
	{"gpgv", "--keyring", "./import-pubring.gpg", "SHA256SUMS.gpg", "SHA256SUMS"},
	{"gpg", "--no-options", "--no-default-keyring", "--no-auto-key-locate", "--no-auto-check-trustdb", "--batch",
		"--trust-model=always", "--keyring=./import-pubring.gpg", "--verify", "SHA256SUMS.gpg", "SHA256SUMS"},
}

func TestConsumers(t *testing.T) {
	keys := map[string]*Signer{
		"EdDSA":            signer(t),
		"RSA":              load(t, private(t, generate(t, func(c *packet.Config) { c.Algorithm = packet.PubKeyAlgoRSA })), ""),
		"ECDSA":            load(t, private(t, generate(t, func(c *packet.Config) { c.Algorithm, c.Curve = packet.PubKeyAlgoECDSA, packet.CurveNistP256 })), ""),
		"SHA-256 the only": load(t, private(t, generate(t, func(c *packet.Config) { c.DefaultHash = 5 })), ""),
	}
	subkey := generate(t, nil)
	if err := subkey.AddSigningSubkey(&packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return made }}); err != nil {
		t.Fatal(err)
	}
	keys["subkey"] = load(t, private(t, subkey), "")
	if got := keys["subkey"].key.PublicKey.KeyId; got == subkey.PrimaryKey.KeyId {
		t.Error("the primary key signs, want its signing subkey")
	}
	for _, args := range consumers {
		t.Run(args[0], func(t *testing.T) {
			if _, err := exec.LookPath(args[0]); err != nil {
				t.Skip(args[0] + " is not installed")
			}
			home := t.TempDir()
			for name, s := range keys {
				dir := files(t, s, sign(t, s))
				check := func() error {
					return command.Run(t.Context(), command.Cmd{Args: args, Dir: dir, Env: []string{"GNUPGHOME=" + home}})
				}
				if err := check(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if err := os.WriteFile(filepath.Join(dir, "SHA256SUMS"), append(bytes.Clone(text), text...), 0o600); err != nil {
					t.Fatal(err)
				}
				if check() == nil {
					t.Errorf("%s: altered text was accepted", name)
				}
			}
		})
	}
}

// TestGpgKeys takes keys as gpg makes and exports them.
func TestGpgKeys(t *testing.T) {
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Skip("gpg is not installed")
	}
	home, err := os.MkdirTemp("", "gpg") // t.TempDir is too long for the agent's socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Run(context.Background(), command.Cmd{Args: []string{"gpgconf", "--kill", "all"}, Env: []string{"GNUPGHOME=" + home}})
		os.RemoveAll(home)
	})
	// The agent would measure for seconds how often it can hash the passphrase.
	if err := os.WriteFile(filepath.Join(home, "gpg-agent.conf"), []byte("s2k-count 65536\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	gpg := func(args ...string) string {
		t.Helper()
		out, err := command.Output(t.Context(), command.Cmd{
			Args: append([]string{"gpg", "--batch", "--pinentry-mode=loopback", "--passphrase=secret", "--armor"}, args...),
			Env:  []string{"GNUPGHOME=" + home},
		})
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	gpg("--quick-generate-key", "release@example.org", "ed25519", "cert", "10d")
	primary := strings.Fields(gpg("--with-colons", "--list-keys"))
	var fpr string
	for _, field := range primary {
		if rest, ok := strings.CutPrefix(field, "fpr:::::::::"); ok {
			fpr = strings.TrimSuffix(rest, ":")
		}
	}
	gpg("--quick-add-key", fpr, "ed25519", "sign", "5d")

	if _, err := LoadSigner(gpg("--export-secret-keys"), ""); err == nil || !strings.Contains(err.Error(), "protected by a passphrase") {
		t.Errorf("without passphrase: got %v", err)
	}
	whole := load(t, gpg("--export-secret-keys"), "secret")
	offline := load(t, gpg("--export-secret-subkeys"), "secret") // the primary key stays at home
	var sig []byte
	for name, s := range map[string]*Signer{"whole": whole, "offline": offline} {
		if got := s.Fingerprint(); got != fpr {
			t.Errorf("%s: got fingerprint %s, want %s", name, got, fpr)
		}
		if sig, err = s.Sign(text, time.Now()); err != nil {
			t.Fatal(name, err)
		}
		ring, err := ParseKeyring([]byte(gpg("--export")))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ring.Verify(text, sig); err != nil || got != fpr {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, fpr)
		}
	}

	// Extended a day later, the key has newer self-signatures than what it signed.
	gpg("--faked-system-time", time.Now().Add(24*time.Hour).UTC().Format("20060102T150405!"), "--quick-set-expire", fpr, "20d")
	later, err := parse([]byte(gpg("--export", "--export-options=export-minimal")))
	if err != nil {
		t.Fatal(err)
	}
	sigs, err := signatures(sig)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (Keyring{later}).verify(text, sigs[0], time.Now().Add(48*time.Hour)); err != nil {
		t.Errorf("signature from before the key was extended: %v", err)
	}
	if _, err := (Keyring{later}).verify(text, sigs[0], time.Now().Add(6*24*time.Hour)); !errors.Is(err, ErrExpired) {
		t.Errorf("with an expired subkey: got %v, want %v", err, ErrExpired)
	}
	gpg("--detach-sign", "--local-user", fpr, "--output", filepath.Join(home, "sig"), filepath.Join(home, "pubring.kbx"))
	kbx, err := os.ReadFile(filepath.Join(home, "pubring.kbx"))
	if err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadFile(filepath.Join(home, "sig"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (Keyring{pgp.EntityList{whole.entity}}).Verify(kbx, made); err != nil {
		t.Errorf("a signature made by gpg: %v", err)
	}
}
