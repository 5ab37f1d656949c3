package debian

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/scripts/vm/host"
)

// connections is how many packages are taken from the mirror at once.
const connections = 4

// File is the path of a package's file, whether it has been fetched or not: .../pool/SHA256/NAME_VERSION_ARCH.deb.
func (a *Archive) File(p Package) string {
	return filepath.Join(a.pool, p.SHA256, filepath.Base(p.Path))
}

// Fetch sees to it that the packages of r are in the cache, where File says, and returns the directory of them all. What is there
// already is compared with its SHA-256 and taken anew if it is damaged. A package that the mirror no longer has, or has with
// another content, is ErrNotFound: Resolve anew.
func (a *Archive) Fetch(ctx context.Context, r Resolution) (dir string, err error) {
	// One at a time: the connection to the mirror is what there is to share.
	waiting := func(holders string) { a.log.Debug("waiting for the pool of packages", "holder", holders) }
	lock, err := a.cache.Lock(ctx, waiting, "pool")
	if err != nil {
		return "", err
	}
	defer lock.Close()
	incoming := filepath.Join(a.pool, "incoming")
	if err := os.RemoveAll(incoming); err != nil { // of a killed fetch: nobody else is here
		return "", fmt.Errorf("fetch packages: %w", err)
	}
	missing, err := a.missing(ctx, r)
	if err != nil || len(missing) == 0 {
		return a.pool, err
	}
	if err := os.MkdirAll(incoming, 0o755); err != nil {
		return "", fmt.Errorf("fetch packages: %w", err)
	}
	defer os.RemoveAll(incoming)
	start := time.Now()
	var bytes int64
	group, gctx := errgroup.WithContext(ctx)
	for _, part := range share(missing, connections) {
		for _, p := range part {
			bytes += p.Size
		}
		group.Go(func() error { return a.take(gctx, incoming, part) })
	}
	a.log.Info("fetching packages", "packages", len(missing), "mib", bytes>>20)
	if err := group.Wait(); err != nil {
		return "", err
	}
	a.log.Info("fetched packages", "packages", len(missing), "mib", bytes>>20, "seconds", time.Since(start).Round(100*time.Millisecond).Seconds())
	return a.pool, nil
}

// missing are the packages of r that are not in the pool. A damaged one is removed.
func (a *Archive) missing(ctx context.Context, r Resolution) ([]Package, error) {
	var missing []Package
	seen := map[string]bool{}
	for _, p := range r.Packages {
		if err := context.Cause(ctx); err != nil {
			return nil, fmt.Errorf("fetch packages: %w", err)
		}
		if !p.valid() {
			return nil, fmt.Errorf("package %q with path %q and SHA-256 %q is none that Resolve gave: %w", p.Name, p.Path, p.SHA256, errdefs.ErrInvalidArgument)
		}
		if seen[p.SHA256] {
			continue
		}
		seen[p.SHA256] = true
		err := check(a.File(p), p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, errdefs.ErrDataLoss):
			a.log.Warn("a package in the cache is damaged and is fetched again", "package", p.Name, "version", p.Version, "error", err)
			if err := os.Remove(a.File(p)); err != nil {
				return nil, fmt.Errorf("remove a damaged package: %w", err)
			}
		case err != nil:
			return nil, fmt.Errorf("look at a package in the cache: %w", err)
		default:
			continue
		}
		missing = append(missing, p)
	}
	return missing, nil
}

func (p Package) valid() bool {
	sum, err := hex.DecodeString(p.SHA256)
	return err == nil && len(sum) == sha256.Size && filepath.IsLocal(p.Path) && (p.Archive == mainArchive || p.Archive == securityArchive)
}

// check compares a file with what the index says of it: ErrDataLoss if it differs.
func check(path string, p Package) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != p.SHA256 {
		return fmt.Errorf("%s has %d bytes with SHA-256 %s, want %d with %s: %w", filepath.Base(path), n, sum, p.Size, p.SHA256, errdefs.ErrDataLoss)
	}
	return nil
}

// share deals the packages out into at most n parts of about the same size.
func share(packages []Package, n int) [][]Package {
	sorted := slices.SortedFunc(slices.Values(packages), func(a, b Package) int { return cmp.Compare(b.Size, a.Size) })
	parts, sizes := make([][]Package, min(n, len(sorted))), make([]int64, n)
	for _, p := range sorted {
		least := 0
		for i := range parts {
			if sizes[i] < sizes[least] {
				least = i
			}
		}
		parts[least] = append(parts[least], p)
		sizes[least] += p.Size
	}
	return parts
}

// take brings packages into the pool. What arrives whole is kept even if others do not.
func (a *Archive) take(ctx context.Context, incoming string, packages []Package) error {
	args := []string{"-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30", "download-file"}
	for _, p := range packages {
		base, err := a.base(ctx, p.Archive)
		if err != nil {
			return err
		}
		args = append(args, base+"/"+escape(p.Path), filepath.Join(incoming, p.SHA256), "SHA256:"+p.SHA256)
	}
	failed := host.Run(ctx, host.Command{Name: "/usr/lib/apt/apt-helper", Args: args})
	var missing []string
	for _, p := range packages {
		arrived := filepath.Join(incoming, p.SHA256)
		if err := check(arrived, p); err != nil {
			missing = append(missing, p.Name+" "+p.Version+" "+p.Arch)
			continue
		}
		if err := place(arrived, a.File(p)); err != nil {
			return fmt.Errorf("keep package %s: %w", p.Name, err)
		}
	}
	if failed == nil && len(missing) == 0 {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("fetch packages: %w", cause)
	}
	var class error = errdefs.ErrUnavailable
	if gone(failed) {
		class = errdefs.ErrNotFound
	}
	if failed == nil {
		failed = errors.New("apt reported no error")
	}
	return fmt.Errorf("fetch %s from the mirror: %w: %w", strings.Join(missing, ", "), class, failed)
}

// place moves a file into a directory of its own.
func place(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// escape makes a path part of a URI, as apt does: "+" and "~" are escaped too.
func escape(path string) string {
	return strings.NewReplacer("+", "%2b").Replace((&url.URL{Path: path}).EscapedPath())
}
