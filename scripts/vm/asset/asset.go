// Package asset keeps directories that take long to build: each has a name and a key, is built once, and is found at once from then
// on, by this process and by every other.
//
// The cache is one directory:
//
//	lock                      shared by every open Cache, exclusive for Clean
//	NAME-KEY/                 a complete asset; KEY is the first 16 digits of its key
//	build/NAME-KEY.XXXX/      one that is being built; it is renamed when complete
//	locks/NAME-KEY            exclusive while it is built or removed, shared by every process that uses it
//	locks/NAME                locks of callers (Cache.Lock)
//	keep/                     files that callers keep beside the assets (Cache.Keep): packages, resolutions
//
// An asset that exists is complete: it appears by rename alone. Locks are flock(2)'s, which the kernel releases with the process, so
// a killed build leaves nothing but a directory in build/, removed by whoever opens the cache or builds the asset next.
//
// The package never looks into an asset and knows nothing of what they are. A Cache may be used by several goroutines.
package asset

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	buildDir = "build"
	lockDir  = "locks"
	keepDir  = "keep"
)

// Cache is one directory of assets.
type Cache struct {
	dir  string
	log  *slog.Logger
	open *Lock

	mu    sync.Mutex
	uses  map[string]*Lock         // by the directory's name: what this process uses, held until Close
	doing map[string]chan struct{} // builds and look-ups of this process; closed when over
}

// DefaultDir is the directory of the cache when none is named: $PHONEHOST_VM_CACHE, else phonehost/vm in the user's cache directory.
func DefaultDir() (string, error) {
	if dir := os.Getenv("PHONEHOST_VM_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache directory, or set PHONEHOST_VM_CACHE: %w", err)
	}
	return filepath.Join(user, "phonehost", "vm"), nil
}

// Open opens the cache in dir, or in DefaultDir if dir is "", makes it if need be, and removes what killed builds left behind. It
// is ErrUnavailable while another process empties the cache. A nil log is silent. The caller closes the cache.
func Open(dir string, log *slog.Logger) (*Cache, error) {
	if dir == "" {
		var err error
		if dir, err = DefaultDir(); err != nil {
			return nil, err
		}
	}
	dir, err := filepath.Abs(dir) // programs that work in it have working directories of their own
	if err != nil {
		return nil, fmt.Errorf("find the cache of VM assets: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []string{dir, filepath.Join(dir, buildDir), filepath.Join(dir, lockDir), filepath.Join(dir, keepDir)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("make the cache of VM assets: %w", err)
		}
	}
	lock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	if ok, err := lock.try(shared); err != nil || !ok {
		lock.Close()
		if err == nil {
			err = fmt.Errorf("open the cache %s: %s empties it: %w", dir, lock.Holders(), errdefs.ErrUnavailable)
		}
		return nil, err
	}
	c := &Cache{dir: dir, log: log, open: lock, uses: make(map[string]*Lock), doing: make(map[string]chan struct{})}
	if err := c.sweep(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close gives up every asset that this Cache uses. The directories stay.
func (c *Cache) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, use := range c.uses {
		use.Close()
		delete(c.uses, name)
	}
	return c.open.Close()
}

// Dir is the directory of the cache, an absolute path.
func (c *Cache) Dir() string { return c.dir }

// Keep is the path of a directory for files that callers keep beside the assets, made if need be. They look after it themselves:
// nothing but Clean removes what is in it.
func (c *Cache) Keep(name string) (string, error) {
	dir := filepath.Join(c.dir, keepDir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make a directory of the cache: %w", err)
	}
	return dir, nil
}

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]*$`)

// Build returns the directory of the asset called name with this key. If it is not there, build makes it: in an empty directory dir
// that becomes the asset when build returns nil, and is removed when it does not. One process builds, others that want the same
// asset wait for it; all stop when ctx is done. name is of letters, digits and "._+-".
//
// The asset is used by this Cache until Close, and nobody removes it in between. Its modification time is that of its last use.
// build must not ask for the same asset, and must not write into the directory once it has returned.
func (c *Cache) Build(ctx context.Context, name string, key Key, build func(ctx context.Context, dir string) error) (string, error) {
	if !validName.MatchString(name) || len(key) < 16 {
		return "", fmt.Errorf("asset %q with key %q: want a name of letters, digits and ._+- and a key made by Hash: %w", name, key, errdefs.ErrInvalidArgument)
	}
	full := name + "-" + string(key[:16])
	release, err := c.begin(ctx, full)
	if err != nil {
		return "", fmt.Errorf("wait for asset %s: %w", full, err)
	}
	defer release()
	path := filepath.Join(c.dir, full)
	for {
		if ok, err := c.use(ctx, full); ok || err != nil {
			return path, err
		}
		if err := c.make(ctx, full, build); err != nil {
			return "", err
		}
	}
}

// begin waits until no other goroutine of this Cache is at work on the asset: flock tells processes apart, not goroutines.
func (c *Cache) begin(ctx context.Context, full string) (release func(), err error) {
	for {
		c.mu.Lock()
		other, busy := c.doing[full]
		if !busy {
			mine := make(chan struct{})
			c.doing[full] = mine
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				delete(c.doing, full)
				c.mu.Unlock()
				close(mine)
			}, nil
		}
		c.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// use takes the asset into use if it exists.
func (c *Cache) use(ctx context.Context, full string) (bool, error) {
	path := filepath.Join(c.dir, full)
	if _, err := os.Stat(path); err != nil {
		return false, nil
	}
	c.mu.Lock()
	held := c.uses[full] != nil
	c.mu.Unlock()
	if !held {
		lock, err := c.lock(full)
		if err != nil {
			return false, err
		}
		if err := lock.wait(ctx, shared, nil, nil); err != nil {
			lock.Close()
			return false, fmt.Errorf("wait for asset %s: %w", full, err)
		}
		if _, err := os.Stat(path); err != nil { // removed before we had the lock
			lock.Close()
			return false, nil
		}
		c.mu.Lock()
		c.uses[full] = lock
		c.mu.Unlock()
	}
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		return false, fmt.Errorf("mark asset %s as used: %w", full, err)
	}
	return true, nil
}

// make builds the asset unless somebody else did so while it waited for the lock.
func (c *Cache) make(ctx context.Context, full string, build func(ctx context.Context, dir string) error) error {
	lock, err := c.lock(full)
	if err != nil {
		return err
	}
	defer lock.Close()
	waiting := func() { c.log.Info("another process works on a VM asset", "asset", full, "holder", lock.Holders()) }
	path := filepath.Join(c.dir, full)
	built := func() bool { _, err := os.Stat(path); return err == nil }
	// Whoever builds it goes on to use it, so the lock may never be free: it is enough that the asset appears.
	if err := lock.wait(ctx, exclusive, waiting, built); err != nil {
		return fmt.Errorf("wait for asset %s: %w", full, err)
	}
	if ok, err := lock.try(exclusive); err != nil || !ok || built() {
		return err // Build looks again
	}
	if err := c.sweepAsset(full); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(filepath.Join(c.dir, buildDir), full+".")
	if err != nil {
		return fmt.Errorf("begin asset %s: %w", full, c.space(err))
	}
	start := time.Now()
	c.log.Info("building a VM asset", "asset", full)
	if err = os.Chmod(temp, 0o755); err == nil {
		err = build(ctx, temp)
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		err = fmt.Errorf("build asset %s: %w", full, c.space(err))
		if gone := os.RemoveAll(temp); gone != nil {
			c.log.Warn("an unfinished VM asset is left behind", "directory", temp, "error", gone)
		}
		return err
	}
	c.log.Info("built a VM asset", "asset", full, "seconds", time.Since(start).Round(100*time.Millisecond).Seconds())
	return nil
}

// sweep removes what killed builds left behind.
func (c *Cache) sweep() error {
	left, err := os.ReadDir(filepath.Join(c.dir, buildDir))
	if err != nil {
		return fmt.Errorf("look for unfinished assets: %w", err)
	}
	for _, d := range left {
		full, _, _ := cutLast(d.Name(), ".")
		lock, err := c.lock(full)
		if err != nil {
			return err
		}
		ok, err := lock.try(exclusive)
		if ok && err == nil {
			c.log.Info("removing a VM asset whose build was killed", "asset", full)
			err = c.sweepAsset(full)
		}
		lock.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// sweepAsset removes the unfinished builds of one asset, whose lock the caller holds.
func (c *Cache) sweepAsset(full string) error {
	left, err := filepath.Glob(filepath.Join(c.dir, buildDir, full+".*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if base, _, _ := cutLast(filepath.Base(dir), "."); base != full {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove an unfinished asset: %w", err)
		}
	}
	return nil
}

// cutLast is strings.Cut at the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
