package cgroup

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// GuestID returns the id of the cgroup above a guest's container in cgroup v2, by which the kernel's BPF programs know it. No other
// cgroup gets it while the host runs. The error is of class fs.ErrNotExist for a phone without cgroups, and errdefs.ErrNotImplemented
// on a host without cgroup v2.
func (t *Tree) GuestID(id string) (uint64, error) {
	dir, err := t.GuestDir(id)
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, fmt.Errorf("id of cgroup %s: %w", dir, err)
	}
	return st.Ino, nil
}

// GuestDir returns the directory of that cgroup, whether it is there or not. The error is of class errdefs.ErrNotImplemented on a host without
// cgroup v2.
func (t *Tree) GuestDir(id string) (string, error) {
	for _, h := range t.hierarchies {
		if h.v2 {
			return filepath.Join(h.mount, t.root, id, "guest"), nil
		}
	}
	return "", fmt.Errorf("cgroup of %s: this host has no cgroup v2: %w", id, errdefs.ErrNotImplemented)
}

// CheckGuestIDs returns an error of class errdefs.ErrNotImplemented on a host without cgroup v2, whose cgroups have no ids for GuestID.
func CheckGuestIDs() error {
	_, err := Dir("/")
	return err
}

// Dir returns the directory of a cgroup in cgroup v2, such as /sys/fs/cgroup/phonehost for /phonehost, whether it is there or not. The error is of
// class errdefs.ErrNotImplemented on a host without cgroup v2.
func Dir(path string) (string, error) {
	found, err := mounted()
	if err != nil {
		return "", err
	}
	for _, h := range found {
		if h.v2 {
			return filepath.Join(h.mount, path), nil
		}
	}
	return "", fmt.Errorf("this host has no cgroup v2, by whose ids guests are known to the kernel: boot it with the unified or the hybrid hierarchy: %w", errdefs.ErrNotImplemented)
}

// GuestLevel returns how deep the cgroups that GuestID speaks of lie below root, the root of the phones' cgroups: 3 for /phonehost.
func GuestLevel(root string) int {
	return len(strings.FieldsFunc(root, func(r rune) bool { return r == '/' })) + 2
}
