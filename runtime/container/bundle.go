package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/containerd/containerd/v2/core/mount"
)

// bundleTaken is how containerd says that the directory of a new task is there already (os.PathError of its mkdir).
var bundleTaken = regexp.MustCompile(`mkdir (/\S+): file exists`)

// takenBundle returns the directory that made containerd refuse a new task, or "". Only a task directory of this container, in this
// namespace of containerd's runtime plug-in, counts.
func (e *Engine) takenBundle(container string, err error) string {
	found := bundleTaken.FindStringSubmatch(err.Error())
	if found == nil {
		return ""
	}
	dir := filepath.Clean(found[1])
	namespace := filepath.Dir(dir)
	if filepath.Base(dir) != container || filepath.Base(namespace) != e.config.Namespace ||
		filepath.Base(filepath.Dir(namespace)) != "io.containerd.runtime.v2.task" {
		return ""
	}
	return dir
}

// clearBundle removes a task directory that containerd has forgotten, and the hidden one that is in its way.
//
// containerd removes a task's directory by renaming it to .NAME first. If it is killed between the two, .NAME stays for ever, since it
// passes hidden directories by; every later rename fails because of it, so NAME stays too, and no task of that name can be made until
// the host starts anew. The caller knows that containerd has no such task.
func clearBundle(dir string) error {
	hidden := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir))
	for _, d := range []string{hidden, dir} {
		root := filepath.Join(d, "rootfs")
		if err := mount.UnmountAll(root, 0); err != nil {
			return fmt.Errorf("unmount the root of a forgotten task: %w", err)
		}
		// Not RemoveAll: a root that is still mounted must keep its files.
		if err := os.Remove(root); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the root of a forgotten task: %w", err)
		}
		if err := os.RemoveAll(d); err != nil {
			return fmt.Errorf("remove the directory of a forgotten task: %w", err)
		}
	}
	return nil
}
