package image

import (
	"context"
	"os"
	"path/filepath"

	"ephemeral-builder/image/progress"
	"ephemeral-builder/image/spec"
)

// BuildDefault is [Build] as a person at a checkout wants it: cache below the user's
// cache folder, SOURCE_DATE_EPOCH honoured, and without a version that of the current
// commit.
func BuildDefault(ctx context.Context, rep *progress.Reporter, s spec.Spec, version, out string) (Image, error) {
	o := Options{Spec: s, Version: version, Out: out, Cache: CacheDir()}
	commit, epoch, err := CommitVersion(ctx, ".")
	if err == nil {
		o.Epoch = epoch
	}
	if version == "" {
		if err != nil {
			return Image{}, err
		}
		o.Version = commit
	}
	if text, ok := os.LookupEnv("SOURCE_DATE_EPOCH"); ok {
		if o.Epoch, err = ParseEpoch(text); err != nil {
			return Image{}, err
		}
	}
	return Build(ctx, rep, o)
}

// CacheDir is this project's folder below the user's cache folder.
func CacheDir() string {
	base, err := os.UserCacheDir()
	if err != nil {
		base = "/var/cache" // services have no HOME
	}
	return filepath.Join(base, "ephemeral-builder")
}
