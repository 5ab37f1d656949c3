package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/phonehost/phonehost/scripts/vm/debian"
	"github.com/phonehost/phonehost/scripts/vm/host"
)

// Sysroot returns a directory with the headers and libraries of the roots' Debian release for arch, to compile phone-display
// against: FFmpeg, libyuv and the C library. It is built if it is not in the cache. An unknown architecture is ErrNotFound.
func (l *Lab) Sysroot(ctx context.Context, arch string) (string, error) {
	dir, _, err := l.asset(ctx, recipe{
		name: "sysroot-" + arch, set: sysrootSet, arch: arch, parts: []string{"1"},
		build: func(ctx context.Context, dir string, packages debian.Resolution) error {
			// Programs, and data that only programs read, are nothing to compile against.
			without := append([]string{"./bin/*", "./sbin/*", "./usr/bin/*", "./usr/sbin/*", "./etc/*", "./var/*"}, unread...)
			if err := l.unpack(ctx, packages.Packages, dir, without...); err != nil {
				return err
			}
			return relativeLinks(dir)
		},
	})
	if err != nil {
		return "", fmt.Errorf("sysroot for %s: %w", arch, err)
	}
	return dir, nil
}

// CC returns the environment that makes `go build` compile Go with C for arch, against Sysroot's directory: phone-display, and
// test binaries of the packages below it. The compiler is this machine's, a cross compiler for another architecture; if it is not
// installed the error is ErrNotFound and names its package.
//
// The result runs where the roots' libraries are: in a machine of the lab, or on the same or a newer release of Debian.
func (l *Lab) CC(ctx context.Context, arch string) ([]string, error) {
	sysroot, err := l.Sysroot(ctx, arch)
	if err != nil {
		return nil, err
	}
	compiler, err := host.Look(multiarch(arch) + "-gcc")
	if err != nil {
		return nil, fmt.Errorf("find the C compiler for %s: %w", arch, err)
	}
	// Go's linker tries which flags the C compiler knows, by linking a program without the flags that are part of CC.
	return []string{"CGO_ENABLED=1", "GOOS=linux", "GOARCH=" + arch, fmt.Sprintf("CC=%s '--sysroot=%s'", compiler, sysroot),
		fmt.Sprintf("CGO_LDFLAGS=-O2 -g '--sysroot=%s'", sysroot)}, nil
}

// relativeLinks makes the absolute links of the file system dir relative, so that they lead inside it.
func relativeLinks(dir string) error {
	m, err := readTree(dir)
	if err != nil {
		return err
	}
	for path, e := range m {
		if e.kind != 'l' || !filepath.IsAbs(e.target) {
			continue
		}
		target, err := filepath.Rel(filepath.Dir(path), filepath.Clean(e.target)[1:])
		if err == nil {
			err = os.Remove(filepath.Join(dir, path))
		}
		if err == nil {
			err = os.Symlink(target, filepath.Join(dir, path))
		}
		if err != nil {
			return fmt.Errorf("make the link %s of a sysroot relative: %w", path, err)
		}
	}
	return nil
}
