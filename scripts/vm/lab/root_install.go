package lab

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/scripts/vm/debian"
	"github.com/phonehost/phonehost/scripts/vm/host"
)

// install installs packages, of this machine's architecture, into the tree of dir, and writes their state. It runs their maintainer
// scripts inside the tree, without network.
func (l *Lab) install(ctx context.Context, dir string, packages []debian.Package) error {
	tree, repository, temp := treeDir(dir), filepath.Join(dir, "repository"), filepath.Join(dir, "temp")
	if err := os.Mkdir(temp, 0o755); err != nil {
		return fmt.Errorf("begin a root file system: %w", err)
	}
	if err := l.repository(ctx, repository, packages); err != nil {
		return err
	}
	args := []string{"--mount", "--pid", "--ipc", "--net", "--fork", "--kill-child", "--mount-proc",
		"mmdebstrap", "--variant=essential", "--mode=root", "--format=directory", "--arch=" + runtime.GOARCH, "--verbose",
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", // for usr-is-merged, which finds it done
		`--aptopt=APT::Install-Recommends "false"`, `--aptopt=APT::Sandbox::User "root"`}
	for _, pattern := range unread {
		args = append(args, "--dpkgopt=path-exclude="+strings.TrimPrefix(pattern, "."))
	}
	// All that the repository has.
	args = append(args, "--include=?version(.)", l.file.Release, tree, "deb [trusted=yes] copy:"+repository+" ./")
	if err := host.Run(ctx, host.Command{Name: "unshare", Args: args, Env: []string{"TMPDIR=" + temp}}); err != nil {
		return fmt.Errorf("install %d packages with mmdebstrap: %w", len(packages), err)
	}
	if err := writeState(ctx, tree, filepath.Join(dir, stateFile)); err != nil {
		return err
	}
	for _, done := range []string{repository, temp} {
		if err := os.RemoveAll(done); err != nil {
			return fmt.Errorf("remove what a root file system was installed from: %w", err)
		}
	}
	return nil
}

// repository makes dir an apt repository of packages alone.
func (l *Lab) repository(ctx context.Context, dir string, packages []debian.Package) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("lay out packages: %w", err)
	}
	controls, err := l.controls(ctx, packages)
	if err != nil {
		return err
	}
	var index bytes.Buffer
	for i, p := range packages {
		file := l.archive.File(p)
		if err := os.Symlink(file, filepath.Join(dir, filepath.Base(file))); err != nil {
			return fmt.Errorf("lay out packages: %w", err)
		}
		fmt.Fprintf(&index, "%sFilename: ./%s\nSize: %d\nSHA256: %s\n\n", controls[i], filepath.Base(file), p.Size, p.SHA256)
	}
	// The code name is what mmdebstrap looks for essential packages in.
	release := "Codename: " + l.file.Release + "\nArchitectures: " + runtime.GOARCH + "\n"
	for name, text := range map[string][]byte{"Packages": index.Bytes(), "Release": []byte(release)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return fmt.Errorf("lay out packages: %w", err)
		}
	}
	return nil
}

// controls are the control files of packages, in their order, each ending with a line feed.
func (l *Lab) controls(ctx context.Context, packages []debian.Package) ([]string, error) {
	out := make([]string, len(packages))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for i, p := range packages {
		group.Go(func() error {
			text, err := host.Output(ctx, "dpkg-deb", "--field", l.archive.File(p))
			if err != nil {
				return fmt.Errorf("read the control file of package %s %s: %w", p.Name, p.Version, err)
			}
			out[i] = strings.TrimRight(string(text), "\n") + "\n"
			return nil
		})
	}
	return out, group.Wait()
}

// stateless are the beginnings of paths that no package has and that still are not state for another architecture: of the package
// manager, of this machine's architecture, or removed in the end.
var stateless = []string{
	"dev/", "run/", "tmp/", "etc/apt/", "etc/ld.so.cache", "var/cache/apt/", "var/cache/ldconfig", "var/lib/apt/", "var/lib/dpkg/arch",
	"var/lib/dpkg/info/", "var/lib/dpkg/lock", "var/lib/dpkg/status", "var/lib/dpkg/triggers/",
}

// writeState writes a tar file of what the tree holds and no package has: what maintainer scripts made.
func writeState(ctx context.Context, tree, file string) error {
	packaged, err := packagedPaths(tree)
	if err != nil {
		return err
	}
	all, err := readTree(tree)
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, path := range slices.Sorted(maps.Keys(all)) {
		foreign := strings.Contains(path, multiarch(runtime.GOARCH)) || all[path].kind == '?' ||
			slices.ContainsFunc(stateless, func(prefix string) bool { return strings.HasPrefix(path, prefix) })
		_, merged := packaged["usr/"+path] // /bin and its like, links that no package has
		if !packaged[path] && !foreign && !(merged && all[path].kind == 'l') {
			list.WriteString(path + "\x00")
		}
	}
	err = host.Run(ctx, host.Command{Name: "tar", Stdin: strings.NewReader(list.String()),
		Args: []string{"-c", "-f", file, "-C", tree, "--numeric-owner", "--no-recursion", "--null", "-T", "-"}})
	if err != nil {
		return fmt.Errorf("keep what maintainer scripts made: %w", err)
	}
	return nil
}

// packagedPaths are the paths that the packages installed in tree have, as dpkg tells, without leading slash and below /usr where
// they lead there.
func packagedPaths(tree string) (map[string]bool, error) {
	lists, err := filepath.Glob(filepath.Join(tree, "var/lib/dpkg/info/*.list"))
	if err != nil {
		return nil, err
	}
	merged := map[string]bool{"bin": true, "sbin": true, "lib": true, "lib64": true}
	paths := map[string]bool{}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			return nil, fmt.Errorf("read which files a package has: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			path := strings.Trim(line, "/\n")
			if first, _, _ := strings.Cut(path, "/"); merged[first] {
				path = "usr/" + path
			}
			paths[path] = true
		}
	}
	return paths, nil
}

// imitate unpacks packages of another architecture into the tree of dir, and gives them the state of twin, the asset of the root
// that was installed. It runs nothing of them. dpkg of the tree knows the packages, but not which files are whose.
func (l *Lab) imitate(ctx context.Context, dir string, packages []debian.Package, twin string) error {
	tree := treeDir(dir)
	if err := l.unpack(ctx, packages, tree, unread...); err != nil {
		return err
	}
	err := host.Run(ctx, host.Command{Name: "tar", Args: []string{"-x", "-p", "-C", tree, "--numeric-owner", "--keep-directory-symlink",
		"-f", filepath.Join(twin, stateFile)}})
	if err != nil {
		return fmt.Errorf("take over what maintainer scripts made: %w", err)
	}
	m, err := readManifest(filepath.Join(twin, manifestFile))
	if err != nil {
		return err
	}
	if err := m.apply(tree); err != nil {
		return err
	}
	controls, err := l.controls(ctx, packages)
	if err != nil {
		return err
	}
	var status strings.Builder
	for _, c := range controls {
		status.WriteString(c + "Status: install ok installed\n\n")
	}
	if err := writeFile(filepath.Join(tree, "var/lib/dpkg/status"), []byte(status.String())); err != nil {
		return fmt.Errorf("write which packages are installed: %w", err)
	}
	return nil
}
