package guest

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// switchRoot makes root, a mount point, the root of all: the file systems that are mounted under the old root move along,
// and the initrd's files are deleted, whose memory nothing else would free.
func switchRoot(root string) error {
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return fmt.Errorf("switch root: %w", err)
		}
		if err := unix.Mount(dir, root+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("switch root: move %s: %w", dir, err)
		}
	}
	old, err := os.OpenRoot("/")
	if err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	defer old.Close()
	if err := os.Chdir(root); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("switch root: move %s to /: %w", root, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	return empty(old)
}

// empty deletes the files of the initrd. Directories that were mount points stay.
func empty(old *os.Root) error {
	entries, err := fs.ReadDir(old.FS(), ".")
	if err != nil {
		return fmt.Errorf("delete the initrd's files: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() == "newroot" {
			continue
		}
		if err := old.RemoveAll(entry.Name()); err != nil {
			return fmt.Errorf("delete the initrd's files: %w", err)
		}
	}
	return nil
}

// furnish makes the root of a kernel machine: the initrd's files, without the modules that are loaded by now, and the least
// that programs look for.
func furnish(root string) error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	skip := map[string]bool{"proc": true, "sys": true, "dev": true, "run": true, "lib": true, "newroot": true, "init": true, "modules": true, "modules.order-of-load": true}
	for _, entry := range entries {
		if skip[entry.Name()] {
			continue
		}
		if err := copyTree("/"+entry.Name(), root+"/"+entry.Name()); err != nil {
			return fmt.Errorf("copy the initrd to the new root: %w", err)
		}
	}
	for _, dir := range []string{"/tmp", "/root", "/mnt", "/sbin", "/usr/bin", "/usr/sbin", "/usr/lib/modules", "/etc", "/var/lib", "/var/log", "/home"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
		"/etc/group":  "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
		"/etc/hosts":  "127.0.0.1 localhost vm\n::1 localhost\n",
	}
	for name, text := range files {
		if err := os.WriteFile(root+name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	links := map[string]string{"/lib": "usr/lib", "/var/run": "../run", "/etc/mtab": "../proc/self/mounts", "/sbin/modprobe": "/run/vm/vm-guest"}
	for name, target := range links {
		if err := os.Remove(root + name); err != nil && !os.IsNotExist(err) {
			return err
		}
		if err := os.Symlink(target, root+name); err != nil {
			return err
		}
	}
	return nil
}

// copyTree copies directories, files and symbolic links with their permissions.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rest, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rest)
		info, err := entry.Info()
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return os.MkdirAll(target, info.Mode().Perm())
		case entry.Type() == fs.ModeSymlink:
			link, err := os.Readlink(name)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case entry.Type().IsRegular():
			return copyFile(name, target, info.Mode().Perm())
		}
		return nil
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return closed(out, err)
}

// closed closes a file that was written and returns the first error.
func closed(f *os.File, err error) error {
	if end := f.Close(); err == nil {
		err = end
	}
	return err
}
