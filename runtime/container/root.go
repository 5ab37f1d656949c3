package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
)

// keepRoot tells whether a phone's root snapshot is there and can be mounted. One that cannot be is removed, with the container that names it.
//
// containerd syncs its record of a snapshot to disk and not the snapshot's directories: a power cut in the seconds after a phone's first
// start can take those alone. Nothing that a guest has synced can be lost that way, since it would have brought them to disk.
func (e *Engine) keepRoot(ctx context.Context, id, key string) (found bool, err error) {
	sn := e.client.SnapshotService(e.config.Snapshotter)
	mounts, err := sn.Mounts(ctx, key)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("root of %s: %w", id, unavailable(err))
	}
	lost, err := lostDir(mounts)
	if err != nil {
		return false, fmt.Errorf("root of %s: %w", id, err)
	}
	if lost == "" {
		return true, nil
	}
	if running, err := e.vacate(ctx, id, Guest); running || err != nil {
		return running, err
	}
	e.log.Warn("a directory of a phone's root file system is gone, as after a power cut; the root is made anew", "phone_id", id, "directory", lost)
	if err := e.remove(ctx, id, Guest); err != nil {
		return false, err
	}
	if err := sn.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
		return false, fmt.Errorf("root of %s: remove snapshot %s: %w", id, key, unavailable(err))
	}
	return false, nil
}

// lostDir returns a directory that overlayfs would write to and that does not exist; empty if there is none.
func lostDir(mounts []mount.Mount) (string, error) {
	for _, m := range mounts {
		for _, option := range m.Options {
			key, dir, _ := strings.Cut(option, "=")
			if m.Type != "overlay" || key != "upperdir" && key != "workdir" {
				continue
			}
			_, err := os.Stat(dir)
			if errors.Is(err, fs.ErrNotExist) {
				return dir, nil
			}
			if err != nil {
				return "", err
			}
		}
	}
	return "", nil
}
