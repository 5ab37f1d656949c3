package asset

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Asset is a complete asset of the cache, as List shows it.
type Asset struct {
	// Name and Key are what Build was given; of the key, the first 16 digits.
	Name, Key string
	// Path is its directory.
	Path string
	// Bytes is what it takes on disk. A sparse file counts as what it really holds.
	Bytes int64
	// Used is when Build last returned it.
	Used time.Time
}

// List shows the complete assets, by name and key.
func (c *Cache) List() ([]Asset, error) {
	dirs, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, fmt.Errorf("list the cache: %w", err)
	}
	var assets []Asset
	for _, d := range dirs {
		name, key, ok := cutLast(d.Name(), "-")
		if !ok || len(key) != 16 || !d.IsDir() {
			continue
		}
		path := filepath.Join(c.dir, d.Name())
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("list the cache: %w", err)
		}
		bytes, err := diskUse(path)
		if err != nil {
			return nil, fmt.Errorf("measure asset %s: %w", d.Name(), err)
		}
		assets = append(assets, Asset{Name: name, Key: key, Path: path, Bytes: bytes, Used: info.ModTime()})
	}
	return assets, nil
}

func diskUse(path string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}

// Prune removes the assets that nobody uses and that were last used longer than keep ago, a day at least, and returns them.
func (c *Cache) Prune(keep time.Duration) ([]Asset, error) {
	limit := time.Now().Add(-max(keep, 24*time.Hour))
	assets, err := c.List()
	if err != nil {
		return nil, err
	}
	var gone []Asset
	for _, a := range assets {
		if a.Used.After(limit) {
			continue
		}
		ok, err := c.remove(a)
		if err != nil {
			return gone, err
		}
		if ok {
			gone = append(gone, a)
		}
	}
	return gone, nil
}

// remove removes an asset that nobody uses. It leaves first by rename, so that a half-removed asset is never found.
func (c *Cache) remove(a Asset) (bool, error) {
	full := filepath.Base(a.Path)
	lock, err := c.lock(full)
	if err != nil {
		return false, err
	}
	defer lock.Close()
	if ok, err := lock.try(exclusive); err != nil || !ok {
		return false, err
	}
	temp, err := os.MkdirTemp(filepath.Join(c.dir, buildDir), full+".")
	if err == nil {
		err = os.Rename(a.Path, filepath.Join(temp, "removed"))
	}
	if err == nil {
		err = os.RemoveAll(temp)
	}
	if err != nil {
		return false, fmt.Errorf("remove asset %s: %w", full, err)
	}
	return true, nil
}

// Clean removes everything from the cache. It is ErrFailedPrecondition, naming the processes, while another process has the cache
// open: to build, or for a machine that runs from it. It closes this Cache whatever it returns.
func (c *Cache) Clean() error {
	defer c.Close()
	// Those who open the cache take the lock for a moment even if they then wait for nothing: nobody is in while we hold it alone.
	if ok, err := c.open.try(exclusive); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("clean the cache %s: it is in use by %s (a build, or a machine that runs): end it first: %w",
			c.dir, c.open.Holders(), errdefs.ErrFailedPrecondition)
	}
	inside, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("clean the cache: %w", err)
	}
	for _, d := range inside {
		if d.Name() == "lock" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(c.dir, d.Name())); err != nil {
			return fmt.Errorf("clean the cache: %w", err)
		}
	}
	return nil
}

// space adds to an error of a build how much room is left, if it is little: a full disk shows in many ways.
func (c *Cache) space(err error) error {
	var st unix.Statfs_t
	if unix.Statfs(c.dir, &st) != nil {
		return err
	}
	const little = 512 << 20
	if free := st.Bavail * uint64(st.Bsize); free < little || errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w (the disk of %s has %d MiB left: make room, or set PHONEHOST_VM_CACHE)", err, c.dir, free>>20)
	}
	return err
}
