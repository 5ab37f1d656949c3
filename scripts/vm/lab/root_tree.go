package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/vm/debian"
	"github.com/phonehost/phonehost/scripts/vm/host"
)

// unread are patterns of files that no machine reads; they are not unpacked.
var unread = []string{"./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/info/*", "./usr/share/lintian/*", "./usr/share/bug/*"}

// unpack unpacks packages over each other in dir, as dpkg would before it configures them, but for the files that match a pattern
// of without. What a package has in /bin, /lib or /sbin lands in /usr. It runs nothing of them.
func (l *Lab) unpack(ctx context.Context, packages []debian.Package, dir string, without ...string) error {
	merged := []string{"bin", "sbin", "lib"}
	if slices.ContainsFunc(packages, func(p debian.Package) bool { return p.Arch == "amd64" }) {
		merged = append(merged, "lib64") // where amd64's programs look for their interpreter
	}
	for _, name := range merged {
		if err := os.MkdirAll(filepath.Join(dir, "usr", name), 0o755); err != nil {
			return fmt.Errorf("begin a file system: %w", err)
		}
		if err := os.Symlink("usr/"+name, filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
			return fmt.Errorf("begin a file system: %w", err)
		}
	}
	tar := []string{"-x", "-p", "-C", dir, "--numeric-owner", "--keep-directory-symlink"}
	for _, pattern := range without {
		tar = append(tar, "--exclude="+pattern)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for _, p := range packages {
		group.Go(func() error {
			err := host.Pipe(ctx,
				host.Command{Name: "dpkg-deb", Args: []string{"--fsys-tarfile", l.archive.File(p)}},
				host.Command{Name: "tar", Args: tar})
			if err != nil {
				return fmt.Errorf("unpack package %s %s of %s: %w", p.Name, p.Version, p.Arch, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// inside runs a program of the file system dir with dir as its root, with nothing of our environment, no network, and processes
// that end with it. dir must be a directory of this process's own making.
func inside(ctx context.Context, dir string, env []string, program ...string) error {
	args := []string{"--mount", "--pid", "--ipc", "--net", "--fork", "--kill-child", "--mount-proc", "--root=" + dir,
		"/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin", "LC_ALL=C"}
	args = append(append(args, env...), program...)
	return host.Run(ctx, host.Command{Name: "unshare", Args: args})
}

// outfit gives the unpacked file system dir what programs in it expect and no package brings.
func outfit(dir string) error {
	for _, name := range []string{"dev", "proc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return fmt.Errorf("outfit a file system: %w", err)
		}
	}
	null := filepath.Join(dir, "dev/null")
	if err := unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return fmt.Errorf("make %s: %w", null, err)
	}
	if err := os.Symlink("mawk", filepath.Join(dir, "usr/bin/awk")); err != nil && !os.IsExist(err) {
		return fmt.Errorf("outfit a file system: %w", err)
	}
	return nil
}

// needRoot tells who is not root that what needs to be.
func needRoot(what string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s: it takes root, for owners of files and for chroot: %w", what, errdefs.ErrPermissionDenied)
	}
	return nil
}
