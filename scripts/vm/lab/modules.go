package lab

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/debian"
	"github.com/phonehost/phonehost/scripts/vm/host"
)

// modulesDir has a directory with a Kbuild file for each element of treeModules.
const modulesDir = "scripts/vm/modules"

// treeModules are the modules that Debian's kernels leave out: a directory of modulesDir, and the files of the kernel's source that
// are built with its Kbuild.
var treeModules = []struct {
	name    string
	sources []string
}{
	{"binder", []string{"drivers/android/*.[ch]"}},
	{"vicodec", []string{"drivers/media/test-drivers/vicodec/*.[ch]", "drivers/media/test-drivers/vim2m.c", "drivers/media/v4l2-core/v4l2-mem2mem.c"}},
}

// Modules returns a directory with the kernel modules of a series that are built out of the tree for arch, stripped and not
// compressed: binder_linux with binderfs, vicodec, vim2m, and v4l2-mem2mem where the kernel lacks it. It returns "" for a series
// that lab.toml names no build packages for: such a kernel has its stock modules alone. An unknown series or architecture is
// ErrNotFound.
//
// They are compiled by the compiler of the Debian release that the kernel is from, in a file system of its own, which takes root;
// the host needs no compiler.
func (l *Lab) Modules(ctx context.Context, arch, series string) (string, error) {
	build := l.file.Kernel[series].Build
	if _, err := l.file.request(kernelSet+series, arch); err != nil || len(build) == 0 {
		return "", err
	}
	recipes, err := asset.HashFiles(os.DirFS(l.repo), modulesDir)
	if err != nil {
		return "", err
	}
	tools, toolsKey, err := l.moduleTools(ctx, series)
	if err != nil {
		return "", err
	}
	source, sourceKey, err := l.moduleSource(ctx, arch, series)
	if err != nil {
		return "", err
	}
	b := modulesBuild{lab: l, arch: arch, series: series, tools: tools, source: source}
	headers := slices.DeleteFunc(expand(build, arch), isSource)
	dir, _, err := l.asset(ctx, recipe{
		name: "modules-" + series + "-" + arch, set: kernelSet + series, arch: arch, only: headers,
		parts: []string{"1", string(recipes), string(toolsKey), string(sourceKey)},
		build: func(ctx context.Context, dir string, packages debian.Resolution) error {
			return b.run(ctx, dir, packages.Packages)
		},
	})
	return dir, err
}

func isSource(pattern string) bool { return strings.HasPrefix(pattern, "linux-source-") }

// moduleTools is the asset with the file system that the modules of a series are compiled in: a compiler for each architecture,
// make, and what these need. Nothing in it is configured.
func (l *Lab) moduleTools(ctx context.Context, series string) (string, asset.Key, error) {
	return l.asset(ctx, recipe{
		name: toolsSet + series, set: toolsSet + series, arch: runtime.GOARCH, parts: []string{"1"},
		build: func(ctx context.Context, dir string, packages debian.Resolution) error {
			if err := needRoot("unpack a compiler"); err != nil {
				return err
			}
			// Link-time optimisation and sanitizers are no part of a module, and half of a compiler.
			without := append([]string{"*/lto1", "*/lto-dump*", "*/lib*san.*"}, unread...)
			if err := l.unpack(ctx, packages.Packages, dir, without...); err != nil {
				return err
			}
			return outfit(dir)
		},
	})
}

// moduleSource is the asset with the part of the kernel's source that treeModules wants.
func (l *Lab) moduleSource(ctx context.Context, arch, series string) (string, asset.Key, error) {
	var wanted []string
	for _, m := range treeModules {
		for _, pattern := range m.sources {
			wanted = append(wanted, "*/"+pattern)
		}
	}
	only := slices.DeleteFunc(expand(l.file.Kernel[series].Build, arch), func(p string) bool { return !isSource(p) })
	if len(only) != 1 {
		return "", "", fmt.Errorf("modules of kernel series %s: want one linux-source-* among the build packages of %s: %w", series, labFile, errdefs.ErrInvalidArgument)
	}
	return l.asset(ctx, recipe{
		name: "source-" + series, set: kernelSet + series, arch: arch, only: only, parts: append([]string{"1"}, wanted...),
		build: func(ctx context.Context, dir string, packages debian.Resolution) error {
			// The package holds a tar file.
			p := packages.Packages[0]
			err := host.Pipe(ctx,
				host.Command{Name: "dpkg-deb", Args: []string{"--fsys-tarfile", l.archive.File(p)}},
				host.Command{Name: "tar", Args: []string{"-xO", "--wildcards", "./usr/src/linux-source-*.tar.xz"}},
				host.Command{Name: "xz", Args: []string{"-dcT0"}},
				host.Command{Name: "tar", Args: append([]string{"-x", "-C", dir, "--strip-components=1", "--wildcards", "--no-same-owner"}, wanted...)})
			if err != nil {
				return fmt.Errorf("unpack the kernel's source of %s %s: %w", p.Name, p.Version, err)
			}
			return nil
		},
	})
}

// modulesBuild is a build of the modules of one series for one architecture.
type modulesBuild struct {
	lab           *Lab
	arch, series  string
	tools, source string // directories of the assets
}

// run builds the asset: dir/*.ko. The file system with the compiler is dir/tree meanwhile.
func (b *modulesBuild) run(ctx context.Context, dir string, headers []debian.Package) error {
	if err := needRoot("build kernel modules"); err != nil {
		return err
	}
	tree := filepath.Join(dir, "tree")
	// Files are shared with the asset of the tools: nothing writes into them, and tar replaces rather than writes.
	if err := host.Run(ctx, host.Command{Name: "cp", Args: []string{"-al", b.tools, tree}}); err != nil {
		return fmt.Errorf("lay out the compiler: %w", err)
	}
	if err := b.lab.unpack(ctx, headers, tree, unread...); err != nil {
		return err
	}
	kernel := ""
	for _, p := range headers {
		if strings.HasPrefix(p.Name, "linux-headers-") && strings.HasSuffix(p.Name, "-"+b.arch) {
			kernel = "/usr/src/" + p.Name
		}
	}
	if kernel == "" {
		return fmt.Errorf("modules of kernel series %s: want linux-headers-...-{arch} among the build packages of %s: %w", b.series, labFile, errdefs.ErrInvalidArgument)
	}
	for _, m := range treeModules {
		built, err := b.module(ctx, tree, kernel, m.name, m.sources)
		if err != nil {
			return fmt.Errorf("build module %s of kernel series %s for %s: %w", m.name, b.series, b.arch, err)
		}
		for _, ko := range built {
			if err := os.Rename(ko, filepath.Join(dir, filepath.Base(ko))); err != nil {
				return fmt.Errorf("build kernel modules: %w", err)
			}
		}
	}
	if err := os.RemoveAll(tree); err != nil {
		return fmt.Errorf("remove what kernel modules were built in: %w", err)
	}
	return nil
}

// module compiles what one Kbuild file names, in the file system tree, against the kernel's headers there. It returns the paths of
// the modules.
func (b *modulesBuild) module(ctx context.Context, tree, kernel, name string, sources []string) ([]string, error) {
	work := path.Join("/build", name)
	if err := b.gather(filepath.Join(tree, work), name, sources); err != nil {
		return nil, err
	}
	err := inside(ctx, tree, []string{"DEB_BUILD_ARCH=" + runtime.GOARCH},
		"make", "-C", kernel, "M="+work, "-j", strconv.Itoa(runtime.NumCPU()), "modules")
	if err != nil {
		return nil, err
	}
	built, err := filepath.Glob(filepath.Join(tree, work, "*.ko"))
	if err != nil || len(built) == 0 {
		return nil, fmt.Errorf("make ended well and made none: %w", errdefs.ErrInternal)
	}
	strip := []string{multiarch(b.arch) + "-strip", "--strip-debug"}
	for _, ko := range built {
		strip = append(strip, path.Join(work, filepath.Base(ko)))
	}
	return built, inside(ctx, tree, nil, strip...)
}

// gather copies a module's sources and its Kbuild file to the directory work.
func (b *modulesBuild) gather(work, name string, sources []string) error {
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	files := []string{filepath.Join(b.lab.repo, modulesDir, name, "Kbuild")}
	for _, pattern := range sources {
		found, err := filepath.Glob(filepath.Join(b.source, pattern))
		if err != nil || len(found) == 0 {
			return fmt.Errorf("the kernel's source has no %s: %w", pattern, errdefs.ErrNotFound)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(work, filepath.Base(file)), text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// multiarch is Debian's name for arch in paths and in names of cross compilers.
func multiarch(arch string) string {
	switch arch {
	case "amd64":
		return "x86_64-linux-gnu"
	case "arm64":
		return "aarch64-linux-gnu"
	}
	return arch + "-linux-gnu"
}
