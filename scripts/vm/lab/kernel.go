package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/vm/debian"
)

// A kernel's asset:
//
//	image             what QEMU boots
//	release           uname -r, without a line feed
//	modules.ext4      the modules
//	early/NAME.ko     modules of the initrd; early/order names them, one a line, in the order to load them in
const (
	kernelRecipe = "kernel 1"

	imageFile   = "image"
	releaseFile = "release"
	modulesFile = "modules.ext4"
	earlyDir    = "early"
	orderFile   = "order"
)

// Kernel is the kernel of a series of lab.toml, built if it is not in the cache. An unknown series or architecture is ErrNotFound.
func (l *Lab) Kernel(ctx context.Context, arch, series string) (Kernel, error) {
	k, err := l.kernel(ctx, arch, series)
	if err != nil {
		return Kernel{}, fmt.Errorf("kernel %s for %s: %w", series, arch, err)
	}
	return k, nil
}

func (l *Lab) kernel(ctx context.Context, arch, series string) (Kernel, error) {
	if _, err := l.file.request(kernelSet+series, arch); err != nil {
		return Kernel{}, err
	}
	extra, err := l.Modules(ctx, arch, series)
	if err != nil {
		return Kernel{}, err
	}
	f := l.file
	path, key, err := l.asset(ctx, recipe{
		name: "kernel-" + series + "-" + arch,
		set:  kernelSet + series, arch: arch, only: expand(f.Kernel[series].Image, arch),
		parts: []string{kernelRecipe, filepath.Base(extra), strings.Join(f.Modules.Wanted, " "), strings.Join(f.Modules.Optional, " "), strings.Join(f.Initrd.Modules, " "), strings.Join(f.Initrd.Optional, " ")},
		build: func(ctx context.Context, dir string, packages debian.Resolution) error {
			return l.buildKernel(ctx, dir, arch, packages, extra)
		},
	})
	if err != nil {
		return Kernel{}, err
	}
	release, err := os.ReadFile(filepath.Join(path, releaseFile))
	if err != nil {
		return Kernel{}, fmt.Errorf("read the release: %w", err)
	}
	return Kernel{Arch: arch, Series: series, Release: string(release), Image: filepath.Join(path, imageFile),
		Modules: filepath.Join(path, modulesFile), Key: key}, nil
}

// buildKernel makes a kernel's asset in dir. extra is a directory of modules that were built out of the tree, or "".
func (l *Lab) buildKernel(ctx context.Context, dir, arch string, packages debian.Resolution, extra string) error {
	vmlinuz, modules, done, err := l.extractKernel(ctx, dir, packages)
	if err != nil {
		return err
	}
	if err := unpackKernel(ctx, arch, vmlinuz, filepath.Join(dir, imageFile)); err != nil {
		return err
	}
	tree, err := openModules(modules, extra)
	if err != nil {
		return err
	}
	if err := l.buildModules(ctx, dir, tree); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, releaseFile), []byte(filepath.Base(modules)), 0o644); err != nil {
		return fmt.Errorf("write the release: %w", err)
	}
	return done()
}

// extractKernel unpacks a kernel's packages in dir and finds vmlinuz and the directory of the modules there. done removes what was unpacked.
func (l *Lab) extractKernel(ctx context.Context, dir string, packages debian.Resolution) (vmlinuz, modules string, done func() error, err error) {
	scratch := filepath.Join(dir, "unpacked")
	if err := os.Mkdir(scratch, 0o755); err != nil {
		return "", "", nil, fmt.Errorf("unpack a kernel: %w", err)
	}
	for _, p := range packages.Packages {
		if err := l.archive.Extract(ctx, p, scratch); err != nil {
			return "", "", nil, err
		}
	}
	vmlinuz, modules, err = findKernel(scratch)
	return vmlinuz, modules, func() error {
		if err := os.RemoveAll(scratch); err != nil {
			return fmt.Errorf("remove an unpacked kernel: %w", err)
		}
		return nil
	}, err
}

// findKernel finds vmlinuz and the directory of the modules below where the packages were unpacked. Debian moved both below /usr
// with Linux 6.17.
func findKernel(scratch string) (vmlinuz, modules string, err error) {
	find := func(what string, patterns ...string) (string, error) {
		var all []string
		for _, p := range patterns {
			found, err := filepath.Glob(filepath.Join(scratch, p))
			if err != nil {
				return "", err
			}
			all = append(all, found...)
		}
		if len(all) != 1 {
			return "", fmt.Errorf("the packages have %d %s, want one: name them in %s: %w", len(all), what, labFile, errdefs.ErrNotFound)
		}
		return all[0], nil
	}
	if vmlinuz, err = find("kernels", "boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz"); err != nil {
		return "", "", err
	}
	modules, err = find("trees of modules", "lib/modules/*", "usr/lib/modules/*")
	return vmlinuz, modules, err
}

// machineModules are the modules of tree that the machines can load, those of the initrd, which are named alone too, first.
func (l *Lab) machineModules(tree *moduleTree) (early, all []string, err error) {
	if early, err = tree.want(l.file.Initrd.Modules, false); err != nil {
		return nil, nil, err
	}
	more, err := tree.want(l.file.Initrd.Optional, true)
	if err != nil {
		return nil, nil, err
	}
	early = append(more, early...) // ext4 asks for its checksum when it is loaded
	wanted, err := tree.want(l.file.Modules.Wanted, false)
	if err != nil {
		return nil, nil, err
	}
	optional, err := tree.want(l.file.Modules.Optional, true)
	return early, slices.Concat(early, wanted, optional), err
}

// buildModules makes the modules' image and the initrd's modules.
func (l *Lab) buildModules(ctx context.Context, dir string, tree *moduleTree) error {
	early, all, err := l.machineModules(tree)
	if err != nil {
		return err
	}
	first, err := tree.order(ctx, early)
	if err != nil {
		return err
	}
	if all, err = tree.order(ctx, all); err != nil {
		return err
	}
	if err := tree.image(ctx, all, filepath.Join(dir, modulesFile)); err != nil {
		return err
	}
	var list strings.Builder
	for _, name := range first {
		m, err := tree.module(ctx, name)
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, earlyDir, name+".ko"), m.text); err != nil {
			return fmt.Errorf("keep module %s for the initrd: %w", name, err)
		}
		list.WriteString(name + "\n")
	}
	if err := writeFile(filepath.Join(dir, earlyDir, orderFile), []byte(list.String())); err != nil {
		return fmt.Errorf("keep the order of modules: %w", err)
	}
	return nil
}
