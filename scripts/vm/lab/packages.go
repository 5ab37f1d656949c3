package lab

import (
	"fmt"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/debian"
)

// The sets of packages of lab.toml, each resolved as a whole for each architecture: a kernel, its headers and its source are of one
// version. A kernel's set is kernelSet + its series, that of its compilers toolsSet + its series, that of a root with an addition
// additionSet + its name.
const (
	initrdSet   = "initrd"
	kernelSet   = "kernel-"
	toolsSet    = "tools-"
	rootSet     = "root"
	additionSet = rootSet + "-"
	sysrootSet  = "sysroot"
)

// sets are the names of all sets that there are for an architecture: those of compilers are for this machine's alone.
func (f *File) sets(arch string) []string {
	var names []string
	for _, series := range slices.SortedFunc(maps.Keys(f.Kernel), compareSeries) {
		names = append(names, kernelSet+series)
		if arch == runtime.GOARCH && len(f.Kernel[series].Tools.Packages) > 0 {
			names = append(names, toolsSet+series)
		}
	}
	names = append(names, initrdSet, rootSet, sysrootSet)
	for _, name := range slices.Sorted(maps.Keys(f.Addition)) {
		names = append(names, additionSet+name)
	}
	return names
}

// request is what a set means for an architecture.
func (f *File) request(set, arch string) (debian.Request, error) {
	if !slices.Contains(f.Architectures, arch) {
		return debian.Request{}, fmt.Errorf("architecture %q: %s has %s: %w", arch, labFile, strings.Join(f.Architectures, ", "), errdefs.ErrNotFound)
	}
	req := debian.Request{Arch: arch, Suites: f.Suites}
	switch set {
	case initrdSet:
		req.Packages = f.Initrd.Packages
	case rootSet:
		req.Packages, req.Closure, req.Essential = f.Root.Packages, true, true
	case sysrootSet:
		req.Packages = f.Sysroot.Packages
	default:
		if name, ok := strings.CutPrefix(set, additionSet); ok {
			a, err := f.addition(name)
			if err != nil {
				return debian.Request{}, err
			}
			req.Packages, req.Closure, req.Essential = slices.Concat(f.Root.Packages, a.Packages), true, true
			break
		}
		series, tools := strings.CutPrefix(set, toolsSet)
		series = strings.TrimPrefix(series, kernelSet)
		k, ok := f.Kernel[series]
		if !ok {
			return debian.Request{}, fmt.Errorf("kernel series %q: %s has %s: %w", series, labFile,
				strings.Join(slices.SortedFunc(maps.Keys(f.Kernel), compareSeries), ", "), errdefs.ErrNotFound)
		}
		req.Suites, req.Packages = k.Suites, slices.Concat(k.Image, k.Build)
		if tools {
			req.Arch, req.Suites, req.Packages, req.Closure = runtime.GOARCH, k.Tools.Suites, k.Tools.Packages, true
		}
	}
	req.Packages = expand(req.Packages, arch)
	return req, nil
}

// expand puts the architectures into patterns.
func expand(patterns []string, arch string) []string {
	words := strings.NewReplacer("{arch}", arch, "{host}", runtime.GOARCH)
	out := make([]string, len(patterns))
	for i, p := range patterns {
		out[i] = words.Replace(p)
	}
	return out
}

// selectPackages are the packages of r that answer patterns, as expand gave them; all of them if there is no pattern.
func selectPackages(r debian.Resolution, patterns []string) debian.Resolution {
	if len(patterns) == 0 {
		return r
	}
	some := debian.Resolution{At: r.At}
	for _, p := range r.Packages {
		if slices.ContainsFunc(patterns, func(pattern string) bool {
			name, _, _ := strings.Cut(pattern, ":")
			ok, err := path.Match(name, p.Name)
			return err == nil && ok
		}) {
			some.Packages = append(some.Packages, p)
		}
	}
	return some
}

// requestKey tells whether a resolution still answers what lab.toml asks.
func requestKey(req debian.Request) asset.Key {
	return asset.Hash(req.Arch, strings.Join(req.Suites, " "), strings.Join(req.Packages, " "), fmt.Sprint(req.Closure, req.Essential))
}
