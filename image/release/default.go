package release

import (
	"context"
	"fmt"
	"os"
	"strings"

	"ephemeral-builder/image"
	"ephemeral-builder/image/openpgp"
	"ephemeral-builder/image/progress"
)

// PublishDefault is [Publish] as a person at a checkout, or a pipeline, wants it: the key
// is in keyFile or, as armored text, in EPHEMERAL_BUILDER_SIGNING_KEY, with its passphrase
// in EPHEMERAL_BUILDER_SIGNING_PASSPHRASE, and SOURCE_DATE_EPOCH is the signature's time.
func PublishDefault(ctx context.Context, rep *progress.Reporter, o Options, keyFile, url, repository string) error {
	key := keyFile
	if key == "" {
		key = os.Getenv("EPHEMERAL_BUILDER_SIGNING_KEY")
	}
	var err error
	if key != "" {
		if o.Signer, err = openpgp.LoadSigner(key, os.Getenv("EPHEMERAL_BUILDER_SIGNING_PASSPHRASE")); err != nil {
			return err
		}
	}
	if text, ok := os.LookupEnv("SOURCE_DATE_EPOCH"); ok {
		if o.Time, err = image.ParseEpoch(text); err != nil {
			return err
		}
	}
	result, err := Publish(ctx, rep, o, url, repository)
	if err != nil {
		return err
	}
	for _, change := range []struct {
		what  string
		stems []string
	}{{"new", result.Added}, {"removed", result.Removed}, {"too old to publish", result.Skipped}} {
		if len(change.stems) > 0 {
			rep.Note("%s: %s", change.what, strings.Join(change.stems, ", "))
		}
	}
	if o.Signer != nil {
		rep.Note("%s", fmt.Sprintf("signed by %s", o.Signer.Fingerprint()))
	}
	return nil
}
