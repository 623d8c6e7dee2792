package archive

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrPrefix is how star, GNU tar, bsdtar and systemd name extended attributes in pax
// records.
const xattrPrefix = "SCHILY.xattr."

// kept tells whether an extended attribute belongs to the image.
func kept(key string) bool {
	switch key {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(key, "user.")
}

// keptRecords are the extended attributes that an archive has, nil if there are none.
func keptRecords(records map[string]string) map[string]string {
	var out map[string]string
	for record, value := range records {
		key, ok := strings.CutPrefix(record, xattrPrefix)
		if !ok || !kept(key) {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		// GNU tar encodes the one character that can't be in the key of a pax record.
		out[xattrPrefix+strings.NewReplacer("%3D", "=", "%25", "%").Replace(key)] = value
	}
	return out
}

// setXattrs sets the extended attributes in records on f. Only root may set
// security.*, so an ordinary user leaves it out, as it leaves out owners.
func setXattrs(f *os.File, records map[string]string) error {
	for record, value := range records {
		key, ok := strings.CutPrefix(record, xattrPrefix)
		if !ok || !kept(key) || strings.HasPrefix(key, "security.") && os.Geteuid() != 0 {
			continue
		}
		if err := unix.Fsetxattr(int(f.Fd()), key, []byte(value), 0); err != nil {
			return fmt.Errorf("extended attribute %s: %w", key, err)
		}
	}
	return nil
}
