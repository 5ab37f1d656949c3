package e2e

import (
	"errors"
	"os"
	"strconv"
	"testing"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

// waitFile waits for a file that a guest makes. Its directory is on another mount namespace's file system, which gives the host
// no events, so this looks again and again.
func waitFile(t *testing.T, path string, limit time.Duration) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		if _, err := os.Stat(path); err == nil {
			return
		} else if !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		select {
		case <-again.C:
		case <-deadline.C:
			t.Fatalf("%s did not appear within %v", path, limit)
		}
	}
}

// waitFor asks again and again until something is so that nothing tells of.
func (d *door) waitFor(what string, is func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(d.patience()); !is(); {
		if time.Now().After(deadline) {
			d.t.Fatalf("waited %v for %s", d.patience(), what)
		}
	}
}
