package inventory

import (
	"errors"
	"strconv"
	"strings"
)

// System is what os-release(5) and /etc/debian_version say of a tree. What they do not
// say is empty: sid has no VersionID.
type System struct {
	ID        string // "debian"
	VersionID string // "13"
	Codename  string // "trixie"
	Name      string // for people: "Debian GNU/Linux 13 (trixie)"
	Debian    string // point release, "13.2", or "forky/sid"
}

// Distro names the system in one word, as package URLs do: "debian-13", or "debian-forky"
// for a suite that has no number yet.
func (s System) Distro() string {
	switch {
	case s.VersionID != "":
		return s.ID + "-" + s.VersionID
	case s.Codename != "":
		return s.ID + "-" + s.Codename
	}
	return s.ID
}

// System returns what the tarball's os-release says.
func (i *Inventory) System() (System, error) {
	text := i.file("etc/os-release")
	if text == nil {
		text = i.file("usr/lib/os-release")
	}
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		if unquoted, err := strconv.Unquote(value); err == nil {
			value = unquoted
		}
		values[key] = strings.Trim(value, "'")
	}
	s := System{
		ID:        values["ID"],
		VersionID: values["VERSION_ID"],
		Codename:  values["VERSION_CODENAME"],
		Name:      values["PRETTY_NAME"],
		Debian:    strings.TrimSpace(string(i.file("etc/debian_version"))),
	}
	if s.ID == "" {
		return s, errors.New("the tarball has no etc/os-release with an ID: it is not of a Debian tree")
	}
	return s, nil
}
