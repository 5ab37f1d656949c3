package archive_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/runtime/volume/archive"
)

// watcher keeps what it is told.
type watcher struct {
	bytes.Buffer
	refuse  error
	begun   []archive.Manifest
	written bool // before it began
	read    atomic.Uint64
	back    atomic.Bool // a count was less than the one before
}

func (w *watcher) Begun(m archive.Manifest) error {
	w.begun = append(w.begun, m)
	w.written = w.Len() > 0
	return w.refuse
}

func (w *watcher) Advanced(bytes uint64) {
	if w.read.Swap(bytes) > bytes {
		w.back.Store(true)
	}
}

// TestExportTellsHowFarItIs has the manifest come before the first byte, and count up to what it says.
func TestExportTellsHowFarItIs(t *testing.T) {
	root, dir := plain(t)
	must(t, os.WriteFile(filepath.Join(dir, "a"), make([]byte, 3<<20), 0o600), os.WriteFile(filepath.Join(dir, "b"), []byte("milk"), 0o600),
		os.Truncate(filepath.Join(dir, "b"), 1<<30)) // holes are not counted
	var w watcher
	m, err := archive.Export(t.Context(), root, archive.Manifest{Phone: "p1"}, &w)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]archive.Manifest{m}, w.begun); diff != "" || w.written {
		t.Errorf("told before the first byte: %v, %s", !w.written, diff)
	}
	if got := w.read.Load(); got != m.Bytes || got < 3<<20+4 || got > 4<<20 || w.back.Load() {
		t.Errorf("counted up to %d of %d, and back: %v", got, m.Bytes, w.back.Load())
	}

	gone := errors.New("nobody wants it")
	no := watcher{refuse: gone}
	if _, err := archive.Export(t.Context(), root, archive.Manifest{}, &no); !errors.Is(err, gone) || no.Len() > 0 {
		t.Errorf("refused: %v, and %d bytes were written", err, no.Len())
	}
}
