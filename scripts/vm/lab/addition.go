package lab

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/debian"
)

// addition is what lab.toml has by a name, "" being nothing.
func (f *File) addition(name string) (AdditionFile, error) {
	a, ok := f.Addition[name]
	if !ok && name != "" {
		return a, fmt.Errorf("addition %q: %s has %s: %w", name, labFile, strings.Join(slices.Sorted(maps.Keys(f.Addition)), ", "), errdefs.ErrNotFound)
	}
	return a, nil
}

// Additions are the names of what lab.toml has for machines that ask for more, in order.
func (l *Lab) Additions() []string { return slices.Sorted(maps.Keys(l.file.Addition)) }

// rootOf is the set of the root with an addition; "" is the ordinary one.
func rootOf(addition string) string {
	if addition == "" {
		return rootSet
	}
	return additionSet + addition
}

// KernelWith returns a kernel whose image of modules has those of an addition of lab.toml too; its initrd is the same. "" is no addition. An unknown
// one is ErrNotFound.
func (l *Lab) KernelWith(ctx context.Context, k Kernel, addition string) (Kernel, error) {
	if addition == "" {
		return k, nil
	}
	dir, key, err := l.addModules(ctx, k, addition)
	if err != nil {
		return Kernel{}, fmt.Errorf("modules of %s for kernel %s for %s: %w", addition, k.Series, k.Arch, err)
	}
	k.Modules, k.Key = filepath.Join(dir, modulesFile), key
	return k, nil
}

// addModules makes the asset of an image of modules, as a kernel's asset has it, with those of an addition.
func (l *Lab) addModules(ctx context.Context, k Kernel, addition string) (string, asset.Key, error) {
	a, err := l.file.addition(addition)
	if err != nil {
		return "", "", err
	}
	extra, err := l.Modules(ctx, k.Arch, k.Series)
	if err != nil {
		return "", "", err
	}
	return l.asset(ctx, recipe{
		name: "kernel-" + k.Series + "-" + k.Arch + "-" + addition,
		set:  kernelSet + k.Series, arch: k.Arch, only: expand(l.file.Kernel[k.Series].Image, k.Arch),
		parts: append([]string{kernelRecipe, string(k.Key)}, a.Modules...),
		build: func(ctx context.Context, dir string, packages debian.Resolution) error {
			_, modules, done, err := l.extractKernel(ctx, dir, packages)
			if err != nil {
				return err
			}
			if err := l.imageWith(ctx, dir, modules, extra, a.Modules); err != nil {
				return err
			}
			return done()
		},
	})
}

// imageWith makes an image of modules of the directory modules and of extra, those built out of the tree: what all machines can load, and more.
func (l *Lab) imageWith(ctx context.Context, dir, modules, extra string, more []string) error {
	tree, err := openModules(modules, extra)
	if err != nil {
		return err
	}
	_, all, err := l.machineModules(tree)
	if err != nil {
		return err
	}
	added, err := tree.want(more, false)
	if err != nil {
		return err
	}
	if all, err = tree.order(ctx, append(all, added...)); err != nil {
		return err
	}
	return tree.image(ctx, all, filepath.Join(dir, modulesFile))
}
