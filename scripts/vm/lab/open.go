package lab

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/debian"
)

// Open reads lab.toml and opens the cache. It builds nothing and asks no mirror. The caller closes the Lab.
func Open(cfg Config) (*Lab, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Mirror == "" {
		cfg.Mirror = os.Getenv("PHONEHOST_VM_MIRROR")
	}
	var err error
	if cfg.Repository == "" {
		if cfg.Repository, err = findRepository(); err != nil {
			return nil, err
		}
	}
	file, err := readFile(cfg.Repository)
	if err != nil {
		return nil, err
	}
	cache, err := asset.Open(cfg.CacheDir, cfg.Logger)
	if err != nil {
		return nil, err
	}
	archive, err := debian.Open(debian.Config{Cache: cache, Mirror: cfg.Mirror, Logger: cfg.Logger})
	if err != nil {
		cache.Close()
		return nil, err
	}
	return &Lab{repo: cfg.Repository, log: cfg.Logger, cache: cache, archive: archive, file: file}, nil
}

// Series are the kernel series of lab.toml, oldest first.
func (l *Lab) Series() []string {
	return slices.SortedFunc(maps.Keys(l.file.Kernel), compareSeries)
}

// Architectures are the architectures of lab.toml.
func (l *Lab) Architectures() []string { return slices.Clone(l.file.Architectures) }

// findRepository is the first directory from the working directory upward that has a lab.toml where it belongs.
func findRepository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, labFile)); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("there is no %s in the working directory or above it: the lab is built inside a checkout", labFile)
		}
		dir = parent
	}
}
