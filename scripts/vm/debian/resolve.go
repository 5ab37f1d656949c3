package debian

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/vm/host"
)

// Resolve asks the mirror which packages a Request means. The indexes are taken anew if they are older than an hour, or if
// req.NotBefore does not allow that. A package, pattern or suite that is not there is ErrNotFound; a mirror that does not answer is ErrUnavailable.
func (a *Archive) Resolve(ctx context.Context, req Request) (Resolution, error) {
	var all []Package
	for arch, names := range byArch(req) {
		part := req
		part.Arch, part.Packages = arch, names
		packages, err := a.resolve(ctx, part)
		if err != nil {
			return Resolution{}, fmt.Errorf("resolve packages of %s: %w", arch, err)
		}
		all = append(all, packages...)
	}
	slices.SortFunc(all, func(a, b Package) int { return strings.Compare(a.Name+" "+a.Arch, b.Name+" "+b.Arch) })
	return Resolution{Packages: slices.Compact(all), At: time.Now().UTC().Truncate(time.Second)}, nil
}

// byArch splits a request's packages by the architecture that they are of.
func byArch(req Request) map[string][]string {
	parts := map[string][]string{}
	for _, name := range req.Packages {
		arch := req.Arch
		if before, after, ok := strings.Cut(name, ":"); ok {
			name, arch = before, after
			if arch == "host" {
				arch = runtime.GOARCH
			}
		}
		parts[arch] = append(parts[arch], name)
	}
	return parts
}

func (a *Archive) resolve(ctx context.Context, req Request) ([]Package, error) {
	s, err := a.state(ctx, req)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := s.update(ctx); err != nil {
		return nil, err
	}
	found, err := a.index(ctx, s)
	if err != nil {
		return nil, err
	}
	var picked []Package
	for _, pattern := range req.Packages {
		p, ok := found.pick(pattern)
		if !ok {
			return nil, fmt.Errorf("no package %q for %s in %s: look at scripts/vm/lab.toml: %w",
				pattern, req.Arch, strings.Join(req.Suites, ", "), errdefs.ErrNotFound)
		}
		picked = append(picked, p)
	}
	if !req.Closure {
		return picked, nil
	}
	return s.closure(ctx, found, picked)
}

// flavour is a kernel's flavour that the lab never wants.
var flavour = regexp.MustCompile(`-(dbg|unsigned|cloud|rt)(-|$)`)

// pick is the newest package that matches pattern.
func (x index) pick(pattern string) (Package, bool) {
	var best Package
	better := func(p Package) bool {
		if c := CompareVersions(p.Version, best.Version); c != 0 {
			return c > 0
		}
		return CompareVersions(p.Name, best.Name) > 0 // linux-image-6.1.0-9 and -10 of one version cannot be, but are in order
	}
	consider := func(versions []Package) {
		for _, p := range versions {
			if best.Name == "" || better(p) {
				best = p
			}
		}
	}
	if !strings.ContainsAny(pattern, "*?[") {
		consider(x[pattern])
		return best, best.Name != ""
	}
	for name, versions := range x {
		if ok, err := path.Match(pattern, name); err == nil && ok && !flavour.MatchString(name) {
			consider(versions)
		}
	}
	return best, best.Name != ""
}

// closure asks apt for picked and what they depend on, as if nothing were installed. Versions are apt's choice.
func (s *state) closure(ctx context.Context, found index, picked []Package) ([]Package, error) {
	args := []string{"-q", "-y", "--print-uris", "--no-install-recommends", "install"}
	if s.request.Essential {
		args = append(args, "?essential")
	}
	for _, p := range picked {
		args = append(args, p.Name)
	}
	out, err := s.apt(ctx, args...)
	if err != nil {
		return nil, fmt.Errorf("find what %s depend on for %s in %s (named in scripts/vm/lab.toml): %w: %w", strings.Join(s.request.Packages, ", "),
			s.request.Arch, strings.Join(s.request.Suites, ", "), errdefs.ErrNotFound, fmt.Errorf("%w\n%s", err, lastPart(string(out))))
	}
	var packages []Package
	for line := range strings.Lines(string(out)) {
		file, ok := printedURI(line)
		if !ok {
			continue
		}
		p, err := found.file(file)
		if err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
	if len(packages) < len(picked) {
		return nil, fmt.Errorf("find what %s depend on: apt names %d packages only:\n%s", strings.Join(s.request.Packages, ", "), len(packages), lastPart(string(out)))
	}
	return packages, nil
}

// lastPart is the end of what apt printed, where it explains itself.
func lastPart(out string) string {
	const most = 2000
	return strings.TrimSpace(out[max(0, len(out)-most):])
}

// printedURI takes the file's name "runc_1.1.5+ds1-1_arm64.deb" out of a line of `apt-get --print-uris`:
// 'URI' NAME SIZE HASH, where NAME has the epoch's colon as %3a.
func printedURI(line string) (string, bool) {
	uri, after, ok := strings.Cut(strings.TrimPrefix(line, "'"), "' ")
	if !ok || !strings.HasPrefix(line, "'") || !strings.Contains(uri, ":/") {
		return "", false
	}
	name, _, ok := strings.Cut(after, " ")
	if !ok || !strings.HasSuffix(name, ".deb") {
		return "", false
	}
	plain, err := url.PathUnescape(name)
	return plain, err == nil
}

// file finds the package of a file "NAME_VERSION_ARCH.deb".
func (x index) file(file string) (Package, error) {
	parts := strings.Split(strings.TrimSuffix(file, ".deb"), "_")
	if len(parts) == 3 {
		for _, p := range x[parts[0]] {
			if p.Version == parts[1] && p.Arch == parts[2] {
				return p, nil
			}
		}
	}
	return Package{}, fmt.Errorf("apt names the file %s, which no index has", file)
}

// gone reports whether err, of a program of apt's, tells of a file that the mirror does not have or has with another content.
func gone(err error) bool {
	text := host.Stderr(err)
	return strings.Contains(text, "404  Not Found") || strings.Contains(text, "Hash Sum mismatch") || strings.Contains(text, "File not found")
}
