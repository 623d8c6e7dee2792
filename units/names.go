package units

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
)

// Names are those of the builders that are installed on this host.
func Names() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(UnitDir, slotsUnit("*")))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // uninstalled meanwhile
		}
		if bytes.Contains(text, []byte(writtenByUs)) {
			names = append(names, strings.TrimSuffix(filepath.Base(file), slotsUnit("")))
		}
	}
	return names, nil
}

// Refused tells whether an update has found that a version does not serve.
func Refused(name, version string) bool {
	_, err := os.Stat(refusedFile(name, version))
	return err == nil
}

func refusedFile(name, version string) string {
	return filepath.Join(ContainerDir, name+"_"+version+".refused")
}

// OnTrial tells whether an update does not know yet if what it has installed serves.
func OnTrial(name string) bool {
	_, err := os.Stat(trialFile(name))
	return err == nil
}

// trialFile is there while an update tries a version: see script update.
func trialFile(name string) string { return filepath.Join(ContainerDir, "."+name+"_trial") }

// Versions are those of a builder's images on this host, and the one that new containers get.
func Versions(name string) (versions []string, current string, err error) {
	trees, err := filepath.Glob(filepath.Join(ContainerDir, name+"_*"))
	if err != nil {
		return nil, "", err
	}
	for _, tree := range trees {
		if info, err := os.Lstat(tree); err == nil && info.IsDir() {
			versions = append(versions, strings.TrimPrefix(filepath.Base(tree), name+"_"))
		}
	}
	target, err := os.Readlink(filepath.Join(ContainerDir, name))
	return versions, strings.TrimPrefix(filepath.Base(target), name+"_"), err
}
