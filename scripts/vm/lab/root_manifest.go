package lab

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// entry is what a root file system has at a path.
type entry struct {
	// kind is 'f', 'd', 'l', or '?' for a device, a socket or a pipe.
	kind byte
	// mode is the permissions with set-user-ID, set-group-ID and sticky bits, as chmod(2) takes them; meaningless for a link.
	mode     uint32
	uid, gid int
	// target is a link's.
	target string
}

// manifest is what a root file system holds, by path without a leading slash. It is kept beside the image as text, a line per path:
//
//	KIND MODE UID GID "PATH" "TARGET"
type manifest map[string]entry

// readTree makes the manifest of the file system dir.
func readTree(dir string) (manifest, error) {
	m := manifest{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		e := entry{kind: '?', mode: stat.Mode & 0o7777, uid: int(stat.Uid), gid: int(stat.Gid)}
		switch stat.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			e.kind = 'f'
		case unix.S_IFDIR:
			e.kind = 'd'
		case unix.S_IFLNK:
			e.kind = 'l'
			if e.target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		m[strings.TrimPrefix(path, dir+"/")] = e
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list a root file system: %w", err)
	}
	return m, nil
}

// text is the manifest as it is kept.
func (m manifest) text() []byte {
	var b bytes.Buffer
	for _, path := range slices.Sorted(maps.Keys(m)) {
		e := m[path]
		fmt.Fprintf(&b, "%c %04o %d %d %q %q\n", e.kind, e.mode, e.uid, e.gid, path, e.target)
	}
	return b.Bytes()
}

// parseManifest reads what text wrote.
func parseManifest(text []byte) (manifest, error) {
	m := manifest{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		var e entry
		var path string
		if _, err := fmt.Sscanf(lines.Text(), "%c %o %d %d %q %q", &e.kind, &e.mode, &e.uid, &e.gid, &path, &e.target); err != nil {
			return nil, fmt.Errorf("manifest of a root file system, line %s: %w: %w", strconv.Quote(lines.Text()), err, errdefs.ErrDataLoss)
		}
		m[path] = e
	}
	return m, lines.Err()
}

// readManifest reads a manifest file.
func readManifest(path string) (manifest, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the manifest of a root file system: %w", err)
	}
	return parseManifest(text)
}

// apply gives what the file system dir has the owners and permissions of m, and makes the directories links that are links in m.
// What dir lacks is left out.
func (m manifest) apply(dir string) error {
	ours, err := readTree(dir)
	if err != nil {
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(ours)) {
		mine, theirs := ours[path], m[path]
		full := filepath.Join(dir, path)
		switch {
		case mine.kind == 'd' && theirs.kind == 'l':
			// Directories that a package has and its script replaces: /var/run.
			if err = os.RemoveAll(full); err == nil {
				err = os.Symlink(theirs.target, full)
			}
		case mine.kind != theirs.kind:
			continue
		case mine.uid != theirs.uid || mine.gid != theirs.gid:
			err = os.Lchown(full, theirs.uid, theirs.gid)
			mine.mode = 0 // chown takes set-user-ID away
			fallthrough
		default:
			if err == nil && mine.kind != 'l' && mine.mode != theirs.mode {
				err = unix.Chmod(full, theirs.mode)
			}
		}
		if err != nil {
			return fmt.Errorf("give %s the owner and the permissions that it is configured with: %w", path, err)
		}
	}
	return nil
}
