package archive

import (
	"bytes"
	"errors"
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

// xattrRecords returns the extended attributes of path as pax records, nil if there are none.
func xattrRecords(path string) (map[string]string, error) {
	list, err := sized(func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var records map[string]string
	for raw := range bytes.SplitSeq(list, []byte{0}) {
		key := string(raw)
		if !kept(key) {
			continue
		}
		value, err := sized(func(buf []byte) (int, error) { return unix.Lgetxattr(path, key, buf) })
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s: %w", key, err)
		}
		if records == nil {
			records = map[string]string{}
		}
		records[xattrPrefix+key] = string(value)
	}
	return records, nil
}

// sized calls get for the size and then for the value. A file system without
// extended attributes has none.
func sized(get func([]byte) (int, error)) ([]byte, error) {
	n, err := get(nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	buf := make([]byte, n)
	n, err = get(buf)
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
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
