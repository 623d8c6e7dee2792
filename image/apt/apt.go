// Package apt finds out which packages an image is made of, with the host's own apt-get:
// it verifies the archives' signatures, and it is the solver. apt works in a private
// folder, so that it needs no root and neither sees nor changes what the host has
// installed; the host's apt.conf (proxies, timeouts) counts all the same.
package apt

import (
	"context"
	"maps"
	"slices"
	"strings"

	"ephemeral-builder/image/lock"
	"ephemeral-builder/image/progress"
)

// Keyring is what the Debian archive is verified with. It is in the Debian package
// debian-archive-keyring.
const Keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// Source is an archive of packages.
type Source struct {
	URI        string // http, https or file
	Suite      string // a folder below dists/, such as stable
	Components []string
	Key        []byte // public keys in binary OpenPGP form; nil stands for [Keyring]
}

// Options say what to resolve.
type Options struct {
	Sources  []Source // the first one is Debian itself
	Arch     string   // Debian's name: "amd64"; it need not be the host's
	Packages []string // beyond the base system
	Dir      string   // for apt's files, made if absent; a cache that others may share, and that may be removed
}

// Resolve finds the packages of an image: the base system as debootstrap's variant minbase
// has it, o.Packages, and what these depend on, without recommendations. It also returns
// the packages' stanzas of the archives' indexes, in the order of the lock, each with an
// empty line after it. What apt-get says goes to stage.
func Resolve(ctx context.Context, stage *progress.Stage, o Options) (lock.Lock, []byte, error) {
	p, unlock, err := prepare(ctx, stage, o)
	if err != nil {
		return lock.Lock{}, nil, err
	}
	defer unlock()
	if err := p.update(ctx); err != nil {
		return lock.Lock{}, nil, err
	}
	releases, err := p.releases()
	if err != nil {
		return lock.Lock{}, nil, err
	}
	lists, err := p.lists(ctx)
	if err != nil {
		return lock.Lock{}, nil, err
	}
	base := baseSystem(lists)
	if strings.HasPrefix(o.Sources[0].URI, "https:") {
		base = append(base, "ca-certificates") // as debootstrap does
	}
	if err := known(lists, o.Packages); err != nil {
		return lock.Lock{}, nil, err
	}
	stage.Detail("choosing packages")
	urls, err := p.solve(ctx, append(base, o.Packages...))
	if err != nil {
		return lock.Lock{}, nil, err
	}
	return p.result(releases, lists, urls)
}

// baseSystem are the packages of debootstrap's variant minbase, before dependencies. Only
// Debian tells what is required: other archives have their own idea of it.
func baseSystem(lists []list) []string {
	required := map[string]bool{}
	usrIsMerged := false
	for _, l := range lists {
		if l.source != 0 {
			continue
		}
		for s := range l.stanzas() {
			if s.field("Priority") == "required" || s.field("Essential") == "yes" {
				required[s.field("Package")] = true
				// bookworm's way to tell that nothing is to be moved: the tree is made with
				// a merged /usr, and usrmerge would bring Perl modules along.
				usrIsMerged = usrIsMerged || strings.Contains(s.field("Depends"), "usrmerge | usr-is-merged")
			}
		}
	}
	base := append(slices.Sorted(maps.Keys(required)), "apt")
	if usrIsMerged {
		base = append(base, "usr-is-merged")
	}
	return base
}
