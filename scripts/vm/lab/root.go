package lab

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/debian"
	"github.com/phonehost/phonehost/scripts/vm/host"
)

// rootDir has what the roots get besides packages: files, laid over them, and masked, which lists units and generators of systemd
// that do not run.
const rootDir = "scripts/vm/root"

// A root's asset:
//
//	root.img     the file system
//	manifest     what it holds
//	state.tar    what the maintainer scripts of its packages made; of the root that is built by running them alone
const (
	rootRecipe = "root 3"

	rootImage    = "root.img"
	manifestFile = "manifest"
	stateFile    = "state.tar"

	// rootLabel is the label of the ext4 file system; rootSize what it has room for: the image is sparse.
	rootLabel = "phonehost-root"
	rootSize  = "2G"
)

// Root is the root file system for an architecture, built if it is not in the cache: Debian with systemd, containerd and what
// phonehostd and phone-display need, but without them. An unknown architecture is ErrNotFound. Building takes root.
//
// For this machine's architecture mmdebstrap installs the packages, from files of the cache alone, so that the versions are those of
// the resolution. For others nothing of theirs is run: the packages are unpacked, and what their maintainer scripts would have made
// is taken from the first.
func (l *Lab) Root(ctx context.Context, arch string) (Root, error) { return l.RootWith(ctx, arch, "") }

// RootWith is Root with the packages of an addition of lab.toml, "" being none: another file system. An unknown addition is ErrNotFound.
func (l *Lab) RootWith(ctx context.Context, arch, addition string) (Root, error) {
	dir, key, err := l.root(ctx, arch, addition)
	if err != nil {
		return Root{}, fmt.Errorf("root file system for %s: %w", arch, err)
	}
	return Root{Arch: arch, Image: filepath.Join(dir, rootImage), Key: key}, nil
}

func (l *Lab) root(ctx context.Context, arch, addition string) (string, asset.Key, error) {
	set := rootOf(addition)
	if _, err := l.file.request(set, arch); err != nil {
		return "", "", err
	}
	masked := l.file.Addition[addition].Masked
	own, err := asset.HashFiles(os.DirFS(l.repo), rootDir)
	if err != nil {
		return "", "", err
	}
	r := recipe{name: set + "-" + arch, set: set, arch: arch, parts: append([]string{rootRecipe, l.file.Release, string(own)}, masked...)}
	fill := l.install
	if arch != runtime.GOARCH {
		twin, twinKey, err := l.root(ctx, runtime.GOARCH, addition)
		if err != nil {
			return "", "", err
		}
		r.parts = append(r.parts, string(twinKey))
		fill = func(ctx context.Context, dir string, packages []debian.Package) error {
			return l.imitate(ctx, dir, packages, twin)
		}
	}
	r.build = func(ctx context.Context, dir string, packages debian.Resolution) error {
		if err := needRoot("build a root file system"); err != nil {
			return err
		}
		if err := fill(ctx, dir, packages.Packages); err != nil {
			return err
		}
		return l.finishRoot(ctx, dir, masked)
	}
	return l.asset(ctx, r)
}

// treeDir is where a root is put together, in the directory of its asset.
func treeDir(dir string) string { return filepath.Join(dir, "tree") }

// finishRoot makes the asset of what is in the tree, and removes the tree. masked is what does not run of an addition.
func (l *Lab) finishRoot(ctx context.Context, dir string, masked []string) error {
	tree := treeDir(dir)
	if err := l.furnish(ctx, tree, masked); err != nil {
		return err
	}
	m, err := readTree(tree)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, manifestFile), m.text(), 0o644); err != nil {
		return fmt.Errorf("write the manifest of a root file system: %w", err)
	}
	err = host.Run(ctx, host.Command{Name: "mke2fs", Args: []string{"-q", "-F", "-t", "ext4", "-L", rootLabel, "-m", "0", "-J", "size=32",
		"-d", tree, filepath.Join(dir, rootImage), rootSize}})
	if err != nil {
		return fmt.Errorf("make the image of a root file system: %w", err)
	}
	if err := os.RemoveAll(tree); err != nil {
		return fmt.Errorf("remove what an image was made of: %w", err)
	}
	return nil
}

// remains are patterns of what installing packages leaves behind, and what is of the machine that builds.
var remains = []string{
	"dev/*", "run/*", "tmp/*", "var/log/*.log", "var/log/apt", "var/cache/apt/*.bin", "var/cache/debconf/*-old", "var/cache/ldconfig",
	"var/lib/apt/lists/*", "var/lib/dpkg/*-old", "etc/*-", "etc/.pwd.lock", "etc/apt/sources.list", "etc/apt/apt.conf.d/99mmdebstrap",
	"etc/resolv.conf", "etc/hostname",
}

// furnish makes a machine of the lab of installed packages: it removes what they left behind, lays the files of rootDir over them,
// and masks what shall not run, of an addition too.
func (l *Lab) furnish(ctx context.Context, tree string, added []string) error {
	for _, pattern := range remains {
		found, err := filepath.Glob(filepath.Join(tree, pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("clean a root file system: %w", err)
			}
		}
	}
	for _, name := range []string{"dev", "proc", "sys", "run", "tmp", "usr/lib/modules", "var/log/journal", "var/lib/containerd"} {
		if err := os.MkdirAll(filepath.Join(tree, name), 0o755); err != nil {
			return fmt.Errorf("furnish a root file system: %w", err)
		}
	}
	// -T: the content; whoever owns the checkout does not own the file.
	files := filepath.Join(l.repo, rootDir, "files")
	if err := host.Run(ctx, host.Command{Name: "cp", Args: []string{"-RPT", "--preserve=mode", files, tree}}); err != nil {
		return fmt.Errorf("put the lab's files into a root file system: %w", err)
	}
	masked, err := os.ReadFile(filepath.Join(l.repo, rootDir, "masked"))
	if err != nil {
		return fmt.Errorf("read what does not run in a root file system: %w", err)
	}
	for _, name := range append(maskedNames(masked), added...) {
		path := filepath.Join(tree, "etc/systemd", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("mask %s: %w", name, err)
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("mask %s: %w", name, err)
		}
		if err := os.Symlink("/dev/null", path); err != nil {
			return fmt.Errorf("mask %s: %w", name, err)
		}
	}
	return nil
}

// maskedNames are the lines of the file masked that are neither empty nor comments.
func maskedNames(text []byte) []string {
	var names []string
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if name := strings.TrimSpace(lines.Text()); name != "" && !strings.HasPrefix(name, "#") {
			names = append(names, name)
		}
	}
	return names
}
