package spec

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// LoadAll reads several specs: all files in the folder at path that are called *.toml,
// sorted by file name. A path that is no folder stands for one spec, as in [Load]. The
// error joins those of all files; that two specs would make the same image, having the
// same name and architecture, is one too.
func LoadAll(path string) ([]Spec, error) {
	if info, err := os.Stat(path); path == "" || err != nil || !info.IsDir() {
		s, err := Load(path)
		if err != nil {
			return nil, err
		}
		return []Spec{s}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var specs []Spec
	var errs []error
	found, first := false, map[string]string{} // the first file that makes an image
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) != ".toml" || entry.IsDir() {
			continue
		}
		found = true
		file := filepath.Join(path, entry.Name())
		s, err := Load(file)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		arch := cmp.Or(s.Arch, runtime.GOARCH) // Go's names of those that we have are Debian's
		if other, ok := first[s.Name+" "+arch]; ok {
			errs = append(errs, fmt.Errorf("%s and %s both describe %s for %s: change the name in one of them", other, file, s.Name, arch))
			continue
		}
		first[s.Name+" "+arch] = file
		specs = append(specs, s)
	}
	if !found {
		errs = append(errs, fmt.Errorf("%s has no *.toml in it: name a spec, or a folder with specs", path))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return specs, nil
}
