package archive

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// xattr is an extended attribute.
type xattr struct {
	name  string
	value []byte
}

// xattrPrefix begins the keys of pax records that hold extended attributes, as star and GNU tar have them.
const xattrPrefix = "SCHILY.xattr."

// maxXattrs bounds the names and values of one file. ext4 has room for less than half of it.
const maxXattrs = 16 << 10

// GNU tar's way to have "=" in a key.
var (
	escapeKey   = strings.NewReplacer("%", "%25", "=", "%3D")
	unescapeKey = strings.NewReplacer("%25", "%", "%3D", "=")
)

// kept reports whether an archive holds an attribute of that name: all that ext4 has.
func kept(name string) bool {
	for _, prefix := range []string{"user.", "security.", "trusted."} {
		if strings.HasPrefix(name, prefix) && len(name) > len(prefix) {
			return true
		}
	}
	return name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

// readXattrs returns the attributes of a file, in order of names, as records of a pax header; links are not followed.
func readXattrs(path string) (map[string]string, error) {
	names, err := getAll(func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
	if err != nil || len(names) == 0 {
		return nil, err
	}
	records := make(map[string]string)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if !kept(name) {
			continue
		}
		value, err := getAll(func(buf []byte) (int, error) { return unix.Lgetxattr(path, name, buf) })
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		records[xattrPrefix+escapeKey.Replace(name)] = string(value)
	}
	return records, nil
}

// getAll calls a function that fills a buffer, or says with ERANGE that it is too small.
func getAll(get func([]byte) (int, error)) ([]byte, error) {
	for buf := make([]byte, 256); ; buf = make([]byte, 4*len(buf)) {
		n, err := get(buf)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, nil
		}
		if !errors.Is(err, unix.ERANGE) {
			return bytes.Clone(buf[:max(n, 0)]), err
		}
	}
}

// parseXattrs reads the attributes out of the records of a pax header.
func parseXattrs(records map[string]string) ([]xattr, error) {
	var found []xattr
	size := 0
	for _, key := range slices.Sorted(maps.Keys(records)) {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok {
			continue
		}
		if name = unescapeKey.Replace(name); !kept(name) {
			return nil, fmt.Errorf("the attribute %.100q, which is of no kind that archives hold", name)
		}
		if size += len(name) + len(records[key]); size > maxXattrs {
			return nil, fmt.Errorf("more than %d bytes of attributes", maxXattrs)
		}
		found = append(found, xattr{name, []byte(records[key])})
	}
	return found, nil
}

// writeXattrs gives a file its attributes; links are not followed.
func writeXattrs(path string, attributes []xattr) error {
	for _, a := range attributes {
		if err := unix.Lsetxattr(path, a.name, a.value, 0); err != nil {
			return fmt.Errorf("attribute %s: %w", a.name, err)
		}
	}
	return nil
}
