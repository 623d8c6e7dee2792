package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"pault.ag/go/debian/control"
	"pault.ag/go/debian/deb"

	"ephemeral-builder/image/lock"
)

// Debs are downloaded packages that one tree is made of.
type Debs struct {
	dir   string // folder they are in, which may hold others too
	files []debFile

	// Size is what they take when installed, in bytes, as they say themselves.
	Size int64

	// Newest is when the latest of them was made: the time of a deb's first ar member,
	// which dpkg-deb sets to the package's SOURCE_DATE_EPOCH. It is as reproducible as the
	// set of packages itself.
	Newest time.Time
}

type debFile struct {
	name    string // of the file
	control deb.Control
}

// Room is what a tree of them may need, in bytes: thrice their own account, as they are
// there decompressed as well, hooks may add, and it knows no blocks.
func (d Debs) Room() int64 { return 3*d.Size + (256 << 20) }

// DebName is the name of a package's file in a folder for many archives: readable, and
// the same for the same bytes only. What stands before the first "_" is what debootstrap
// shows to people.
func DebName(p lock.Package) string {
	return fmt.Sprintf("%s_%s_%s_%.16s.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.Architecture, p.SHA256)
}

// OpenDebs reads what the packages of a lock say about themselves. Their files must be in
// dir, verified, under the names that [DebName] gives.
func OpenDebs(dir string, l lock.Lock) (Debs, error) {
	d := Debs{dir: dir, files: make([]debFile, len(l.Packages))}
	times := make([]int64, len(l.Packages))
	var group errgroup.Group
	group.SetLimit(8)
	for i, p := range l.Packages {
		group.Go(func() (err error) {
			d.files[i].name = DebName(p)
			d.files[i].control, times[i], err = readControl(filepath.Join(dir, DebName(p)))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return Debs{}, err
	}
	for i, f := range d.files {
		d.Size += int64(f.control.InstalledSize) << 10
		if made := time.Unix(times[i], 0).UTC(); made.After(d.Newest) {
			d.Newest = made
		}
	}
	return d, nil
}

// readControl reads the control file of a package, see deb(5).
func readControl(name string) (c deb.Control, made int64, err error) {
	file, err := os.Open(name)
	if err != nil {
		return c, 0, err
	}
	defer file.Close()
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s is no Debian package: remove it and build again: %w", name, err)
		}
	}()
	archive, err := deb.LoadAr(file)
	if err != nil {
		return c, 0, err
	}
	first, err := archive.Next()
	if err != nil {
		return c, 0, err
	}
	// deb.Load would begin with the data as well, and take 8 MiB for that.
	second, err := archive.Next()
	if err != nil {
		return c, 0, err
	}
	tarball, closer, err := second.Tarfile()
	if err != nil {
		return c, 0, err
	}
	defer closer.Close()
	for {
		if h, err := tarball.Next(); err != nil {
			return c, 0, err
		} else if path.Clean(h.Name) == "control" {
			return c, first.Timestamp, control.Unmarshal(&c, tarball)
		}
	}
}

// split tells what debootstrap extracts first, so that dpkg can run: what is essential and
// all that this depends on. The rest is the base, of what the archive merely requires, too:
// Policy (3.8) lets packages count on nothing but what is essential. Names are sorted.
func (d Debs) split() (required, base []string, err error) {
	byName := map[string]*debFile{}
	providers := map[string][]string{}
	var todo []string
	for i := range d.files {
		f := &d.files[i]
		name := f.control.Package
		byName[name] = f
		for _, provided := range relations(f.control.Values["Provides"]) {
			providers[provided[0]] = append(providers[provided[0]], name)
		}
		if f.control.Values["Essential"] == "yes" {
			todo = append(todo, name)
		}
	}
	if len(todo) == 0 {
		return nil, nil, errors.New("no package is essential: this lock is none of a Debian system")
	}
	seen := map[string]bool{}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		control := byName[name].control.Values
		for _, alternatives := range relations(control["Pre-Depends"] + "," + control["Depends"]) {
			for _, wanted := range alternatives {
				if byName[wanted] != nil {
					todo = append(todo, wanted)
				} else if len(providers[wanted]) > 0 {
					todo = append(todo, providers[wanted]...)
				} else {
					continue
				}
				break
			}
		}
	}
	for name := range byName {
		if seen[name] {
			required = append(required, name)
		} else {
			base = append(base, name)
		}
	}
	slices.Sort(required)
	slices.Sort(base)
	return required, base, nil
}

// relations are the package names of a relationship field, as groups of alternatives:
// versions and architectures were the solver's business (Debian Policy 7.1).
func relations(field string) [][]string {
	var groups [][]string
	for group := range strings.SplitSeq(field, ",") {
		var names []string
		for alternative := range strings.SplitSeq(group, "|") {
			if name := strings.FieldsFunc(alternative, func(r rune) bool { return strings.ContainsRune(" \t\n(:[<", r) }); len(name) > 0 {
				names = append(names, name[0])
			}
		}
		if len(names) > 0 {
			groups = append(groups, names)
		}
	}
	return groups
}
