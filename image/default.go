package image

import (
	"context"
	"errors"
	"fmt"
	"os"

	"ephemeral-builder/image/cache"
	"ephemeral-builder/image/lock"
	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/spec"
)

// BuildDefault is [Build] as a person at a checkout wants it: cache below the user's
// cache folder, SOURCE_DATE_EPOCH and FAKETIME honoured, and without a version the time of
// the current commit. An empty lockFile means none. Of several specs each is built, even
// if one before it fails. The cache is pruned afterwards.
func BuildDefault(ctx context.Context, rep *progress.Reporter, specs []spec.Spec, version, lockFile, out string) ([]Image, error) {
	o := Options{Version: version, Out: out, Cache: cache.Dir(), Clock: os.Getenv("FAKETIME")}
	commit, made, err := Commit(ctx, ".")
	if err == nil {
		o.Commit = commit
	}
	if version == "" {
		if err != nil {
			return nil, fmt.Errorf("no version: say -version=VERSION: %w", err)
		}
		o.Version = made.Format("20060102150405")
	}
	if text, ok := os.LookupEnv("SOURCE_DATE_EPOCH"); ok {
		if o.Epoch, err = ParseEpoch(text); err != nil {
			return nil, err
		}
	}
	if lockFile != "" {
		if len(specs) > 1 {
			return nil, fmt.Errorf("a lock is of one image, and there are %d specs: name one of them", len(specs))
		}
		l, err := lock.Read(lockFile)
		if err != nil {
			return nil, err
		}
		o.Lock = &l
	}
	var images []Image
	var failed []error
	for _, o.Spec = range specs {
		img, err := Build(ctx, rep, o)
		if ctx.Err() != nil {
			return images, context.Cause(ctx)
		}
		if err != nil {
			if len(specs) > 1 {
				err = fmt.Errorf("%s: %w", o.Spec.Name, err)
			}
			failed = append(failed, err)
			continue
		}
		images = append(images, img)
	}
	// Another build that runs prunes when it ends.
	if _, err := cache.Prune(o.Cache, cache.Limit); err != nil && !errors.Is(err, cache.ErrInUse) {
		failed = append(failed, err)
	}
	return images, errors.Join(failed...)
}
