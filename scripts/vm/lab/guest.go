package lab

import (
	"context"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/host"
)

const (
	goModule     = "github.com/phonehost/phonehost"
	guestPackage = "scripts/vm/cmd/vm-guest"
)

// Guest is the path of the control program of a machine of arch, vm-guest, statically linked: built if the cache has none of the
// present source. Key changes when its source does.
func (l *Lab) Guest(ctx context.Context, arch string) (string, asset.Key, error) {
	source, err := sourceKey(l.repo, guestPackage)
	if err != nil {
		return "", "", fmt.Errorf("vm-guest for %s: %w", arch, err)
	}
	key := asset.Hash("vm-guest 1", arch, string(source), runtime.Version())
	dir, err := l.cache.Build(ctx, "vm-guest-"+arch, key, func(ctx context.Context, dir string) error {
		err := host.Run(ctx, host.Command{Name: "go", Dir: l.repo, Env: []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch, "GOFLAGS="},
			Args: []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", filepath.Join(dir, "vm-guest"), "./" + guestPackage}})
		if err != nil {
			return fmt.Errorf("compile %s: %w", guestPackage, err)
		}
		return nil
	})
	return filepath.Join(dir, "vm-guest"), key, err
}

// sourceKey is the key of everything that a package of this module is compiled from: the files of it and of the packages of this
// module that it imports, and the versions of the others in go.mod. It asks no go command, which would take longer than the rest of
// opening a warm lab. Files for other architectures count too.
func sourceKey(repo, pkg string) (asset.Key, error) {
	tree := os.DirFS(repo)
	parts := []string{}
	add := func(file string) error {
		text, err := fs.ReadFile(tree, file)
		if err == nil {
			parts = append(parts, file, string(asset.Hash(string(text))))
		}
		return err
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		if err := add(file); err != nil {
			return "", fmt.Errorf("hash the source: %w", err)
		}
	}
	seen := map[string]bool{pkg: true}
	for todo := []string{pkg}; len(todo) > 0; todo = todo[1:] {
		files, err := fs.ReadDir(tree, todo[0])
		if err != nil {
			return "", fmt.Errorf("hash the source of %s: %w", todo[0], err)
		}
		for _, f := range files {
			name := path.Join(todo[0], f.Name())
			if !f.Type().IsRegular() || strings.HasSuffix(name, "_test.go") {
				continue
			}
			if err := add(name); err != nil {
				return "", fmt.Errorf("hash the source: %w", err)
			}
			if !strings.HasSuffix(name, ".go") {
				continue // it may be embedded
			}
			imports, err := ownImports(filepath.Join(repo, name))
			if err != nil {
				return "", err
			}
			for _, i := range imports {
				if !seen[i] {
					seen[i] = true
					todo = append(todo, i)
				}
			}
		}
	}
	if len(parts) <= 4 {
		return "", fmt.Errorf("hash the source of %s: %w", pkg, errors.New("it has no files"))
	}
	return asset.Hash(parts...), nil
}

// ownImports are the packages of this module that a file imports, as directories of the repository.
func ownImports(file string) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		return nil, fmt.Errorf("read the imports: %w", err)
	}
	var own []string
	for _, spec := range f.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, fmt.Errorf("read the imports of %s: %w", file, err)
		}
		if dir, ok := strings.CutPrefix(name, goModule+"/"); ok {
			own = append(own, dir)
		}
	}
	slices.Sort(own)
	return own, nil
}
