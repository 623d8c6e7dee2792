// Package sysupdate writes the transfer files with which systemd-sysupdate (254 and later, so
// not that of Debian 12) installs and upgrades images from a published folder, in the layout
// that package units installs them in:
//
//	/var/lib/container/NAME_VERSION                 the tree
//	/var/lib/container/NAME_VERSION.manifest.json   its manifest
//	/var/lib/container/NAME → NAME_VERSION          what the units follow
//
// They are a component of their own (--component=NAME), as all transfers of one component
// must have their versions in common.
//
// What sysupdate 257 does with it was seen by running it: it makes room before it
// downloads, so that a download that fails leaves one version less; it removes the oldest
// version even if the symlink leads there or containers run on it, with or without
// nspawn's lock; and an update to a version that is installed does not move the symlink.
package sysupdate

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"text/template"
)

//go:embed files
var files embed.FS

// Options says what is to be installed from where.
type Options struct {
	URL  string // http or https URL of the published folder
	Name string // of the image
	Dir  string // where trees go: "/var/lib/container"
	Keep int    // versions to keep, 2 or more; an upgrade needs the one that serves
}

// File is a file to be written to the folder [Dir] names.
type File struct {
	Name string // "NAME.transfer"
	Text []byte
}

// Suffix is what the name of the file with the tree ends with, after that of the image.
const Suffix = ".transfer"

// Dir is where an administrator keeps the files of an image.
func Dir(name string) string { return "/etc/sysupdate." + name + ".d" }

// Transfers renders the files. They are the same for all architectures.
func Transfers(o Options) ([]File, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		// Without the value, which may hold a password.
		return nil, errors.New("no URL of a published folder: use http://HOST/PATH or https://HOST/PATH, without user, query and fragment")
	}
	if o.Keep < 2 {
		return nil, fmt.Errorf("can't keep %d versions: use 2 or more, as the one that serves must stay while the next comes", o.Keep)
	}
	// Specifiers begin with "%", in URLs too (systemd.unit(5)).
	o.URL = strings.ReplaceAll(strings.TrimSuffix(u.String(), "/")+"/", "%", "%%")
	templates, err := template.ParseFS(files, "files/*.transfer")
	if err != nil {
		return nil, err
	}
	var rendered []File
	for _, file := range []struct{ template, suffix string }{{"manifest.transfer", ".manifest.transfer"}, {"tree.transfer", Suffix}} {
		var text bytes.Buffer
		if err := templates.ExecuteTemplate(&text, file.template, o); err != nil {
			return nil, err
		}
		rendered = append(rendered, File{o.Name + file.suffix, text.Bytes()})
	}
	return rendered, nil
}

// URL is what [Transfers] made a file of, or empty.
func URL(text []byte) string {
	_, source, _ := strings.Cut(string(text), "[Source]\n")
	for line := range strings.Lines(source) {
		if path, ok := strings.CutPrefix(line, "Path="); ok {
			return strings.ReplaceAll(strings.TrimSpace(path), "%%", "%")
		}
	}
	return ""
}

var seen = regexp.MustCompile(`^[0-9A-Za-z.,_+-]+$`)

// CheckVersion tells whether sysupdate sees a version. 257 passes over files whose version
// has other characters without a word: of those that images may have, "~" and "^".
func CheckVersion(version string) error {
	if !seen.MatchString(version) {
		return fmt.Errorf("systemd-sysupdate does not see version %s: use letters, digits and . + - only", version)
	}
	return nil
}
