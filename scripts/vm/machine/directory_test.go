package machine

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// TestDirectories makes and removes directories of machines side by side; each making looks for what others left behind.
func TestDirectories(t *testing.T) {
	cache := openCache(t, t.TempDir())
	var makers sync.WaitGroup
	for range 8 {
		makers.Go(func() {
			for range 200 {
				d, err := newDirectory(cache, "")
				if err != nil {
					t.Error(err)
					return
				}
				if err := os.WriteFile(d.file(serialFile), nil, 0o600); err != nil {
					t.Errorf("the directory is not the machine's own: %v", err)
				}
				if err := d.remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	makers.Wait()
	if left, err := filepath.Glob(filepath.Join(cache.Dir(), "keep", "machines", "*")); err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}
