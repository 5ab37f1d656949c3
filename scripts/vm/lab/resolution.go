package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/debian"
)

// resolved is what the packages of lab.toml came to. It is kept in the cache, as resolution.json, by "SET/ARCH", and lasts until
// lab.toml asks for something else, `vm lock`, or the loss of a package that was never fetched.
type resolved map[string]answer

// answer is one set's resolution.
type answer struct {
	// Request is the key of what was asked.
	Request asset.Key `json:"request"`
	debian.Resolution
}

// packages are the versions of a set's packages. The mirror is asked only if the cache does not know.
func (l *Lab) packages(ctx context.Context, set, arch string) (debian.Resolution, error) {
	req, err := l.file.request(set, arch)
	if err != nil {
		return debian.Resolution{}, err
	}
	known, err := l.readResolved()
	if err != nil {
		return debian.Resolution{}, err
	}
	name := set + "/" + arch
	if a, ok := known[name]; ok && a.Request == requestKey(req) {
		return a.Resolution, nil
	}
	r, err := l.archive.Resolve(ctx, req)
	if err != nil {
		return debian.Resolution{}, fmt.Errorf("packages of %s: %w", name, err)
	}
	// Another process may have asked meanwhile: all use the first answer.
	err = l.changeResolved(ctx, func(known resolved) bool {
		if a, ok := known[name]; ok && a.Request == requestKey(req) {
			r = a.Resolution
			return false
		}
		known[name] = answer{Request: requestKey(req), Resolution: r}
		return true
	})
	return r, err
}

// renew resolves a set anew, since the mirror has lost a package of old, unless another process did so already.
func (l *Lab) renew(ctx context.Context, set, arch string, old debian.Resolution) error {
	name := set + "/" + arch
	req, err := l.file.request(set, arch)
	if err != nil {
		return err
	}
	req.NotBefore = time.Now()
	r, err := l.archive.Resolve(ctx, req)
	if err != nil {
		return fmt.Errorf("packages of %s: %w", name, err)
	}
	return l.changeResolved(ctx, func(known resolved) bool {
		if !slices.Equal(known[name].Packages, old.Packages) {
			return false
		}
		l.log.Warn("the mirror no longer has what was resolved; newer packages are taken", "packages", name,
			"resolved", old.At, "changes", strings.Join(changes(old, r), "; "))
		known[name] = answer{Request: requestKey(req), Resolution: r}
		return true
	})
}

func (l *Lab) resolvedPath() (string, error) {
	dir, err := l.cache.Keep("lab")
	return filepath.Join(dir, "resolution.json"), err
}

func (l *Lab) readResolved() (resolved, error) {
	path, err := l.resolvedPath()
	if err != nil {
		return nil, err
	}
	known := resolved{}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read which packages were resolved: %w", err)
	}
	if err := json.Unmarshal(text, &known); err != nil {
		l.log.Warn("what was resolved cannot be read, and is resolved anew", "file", path, "error", err)
		return resolved{}, nil
	}
	return known, nil
}

// changeResolved lets change work on what is known, alone, and keeps it if change returns true.
func (l *Lab) changeResolved(ctx context.Context, change func(resolved) bool) error {
	lock, err := l.cache.Lock(ctx, nil, "resolution")
	if err != nil {
		return err
	}
	defer lock.Close()
	known, err := l.readResolved()
	if err != nil || !change(known) {
		return err
	}
	path, err := l.resolvedPath()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(known, "", " ")
	if err == nil {
		err = os.WriteFile(path+".new", text, 0o644)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("keep which packages were resolved: %w", err)
	}
	return nil
}

// changes says what differs between two resolutions, a line for each package: "runc 1.1.5-1 -> 1.1.5-2", "runc 1.1.5-1 added".
func changes(old, now debian.Resolution) []string {
	type key struct{ name, arch string }
	before := map[key]debian.Package{}
	for _, p := range old.Packages {
		before[key{p.Name, p.Arch}] = p
	}
	var lines []string
	for _, p := range now.Packages {
		o, ok := before[key{p.Name, p.Arch}]
		delete(before, key{p.Name, p.Arch})
		switch {
		case !ok:
			lines = append(lines, p.Name+" "+p.Version+" added")
		case o.Version != p.Version:
			lines = append(lines, p.Name+" "+o.Version+" -> "+p.Version)
		case o.SHA256 != p.SHA256:
			lines = append(lines, p.Name+" "+p.Version+" has another content")
		}
	}
	for _, o := range before {
		lines = append(lines, o.Name+" "+o.Version+" removed")
	}
	slices.Sort(lines)
	return lines
}

// Resolved is the resolution of one set of packages of lab.toml for one architecture, as the lab uses it.
type Resolved struct {
	// Set is "kernel-6.12", "initrd", "root" or "sysroot".
	Set, Arch string
	debian.Resolution
	// Named are the packages that lab.toml itself names; the others are what these depend on.
	Named []debian.Package
	// Changes, after Lock, say what differs from before, one line for each package: "runc 1.1.5-1 -> 1.1.5-2". For a set that was
	// not resolved before there are none.
	Changes []string
	// First says, after Lock, that the set was not resolved before.
	First bool
}

// Resolutions are the sets that have been resolved, as the cache has them; the mirror is not asked.
func (l *Lab) Resolutions() ([]Resolved, error) {
	known, err := l.readResolved()
	if err != nil {
		return nil, err
	}
	var all []Resolved
	for _, arch := range l.file.Architectures {
		for _, set := range l.file.sets(arch) {
			req, err := l.file.request(set, arch)
			if err != nil {
				return nil, err
			}
			if a, ok := known[set+"/"+arch]; ok && a.Request == requestKey(req) {
				all = append(all, l.resolved(set, req, a.Resolution))
			}
		}
	}
	return all, nil
}

func (l *Lab) resolved(set string, req debian.Request, r debian.Resolution) Resolved {
	return Resolved{Set: set, Arch: req.Arch, Resolution: r, Named: selectPackages(r, req.Packages).Packages}
}

// Lock resolves every set anew, and keeps the result: what is built from now on is built from it. It changes nothing if a set
// cannot be resolved.
func (l *Lab) Lock(ctx context.Context) ([]Resolved, error) {
	start := time.Now()
	old, err := l.readResolved()
	if err != nil {
		return nil, err
	}
	var all []Resolved
	for _, arch := range l.file.Architectures {
		for _, set := range l.file.sets(arch) {
			all = append(all, Resolved{Set: set, Arch: arch})
		}
	}
	keys := make([]asset.Key, len(all))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for i := range all {
		set, arch := all[i].Set, all[i].Arch
		group.Go(func() error {
			req, err := l.file.request(set, arch)
			if err != nil {
				return err
			}
			keys[i], req.NotBefore = requestKey(req), start
			r, err := l.archive.Resolve(gctx, req)
			if err != nil {
				return fmt.Errorf("packages of %s/%s: %w", set, arch, err)
			}
			all[i] = l.resolved(set, req, r)
			before, ok := old[set+"/"+arch]
			if all[i].First = !ok; ok {
				all[i].Changes = changes(before.Resolution, r)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return all, l.changeResolved(ctx, func(known resolved) bool {
		clear(known)
		for i, r := range all {
			known[r.Set+"/"+r.Arch] = answer{Request: keys[i], Resolution: r.Resolution}
		}
		return true
	})
}

// recipe says how an asset is made from packages.
type recipe struct {
	// name is the asset's, "kernel-6.12-arm64".
	name string
	// set and arch are whose packages are used; only, as expand gives them, which of them: none means all.
	set, arch string
	only      []string
	// parts are what else the asset is made from, for its key: a number of the recipe itself, keys of other assets, hashes of files.
	parts []string
	// build makes the asset in dir from packages, which have been fetched.
	build func(ctx context.Context, dir string, packages debian.Resolution) error
}

// asset finds or makes the asset of a recipe. If the mirror has lost a package, the set is resolved anew, once.
func (l *Lab) asset(ctx context.Context, r recipe) (string, asset.Key, error) {
	for again := false; ; again = true {
		all, err := l.packages(ctx, r.set, r.arch)
		if err != nil {
			return "", "", err
		}
		used := selectPackages(all, r.only)
		parts := slices.Concat([]string{r.name}, r.parts)
		for _, p := range used.Packages {
			parts = append(parts, p.SHA256)
		}
		key, lost := asset.Hash(parts...), false
		path, err := l.cache.Build(ctx, r.name, key, func(ctx context.Context, dir string) error {
			if _, err := l.archive.Fetch(ctx, used); err != nil {
				lost = errdefs.IsNotFound(err)
				return err
			}
			return r.build(ctx, dir, used)
		})
		if err == nil || !lost || again {
			return path, key, err
		}
		if renewed := l.renew(ctx, r.set, r.arch, all); renewed != nil {
			return "", "", errors.Join(err, renewed)
		}
	}
}
