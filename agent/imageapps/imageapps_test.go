package imageapps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/image/preinstalled"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host has the images of a host, which outlive its agents.
type host struct {
	t    *testing.T
	path string // of the database

	mu sync.Mutex
	// images have the packages of the images that are there, by digest, and phones the digests of the phones' images.
	images map[string]preinstalled.Packages
	phones []string
	// fail is the error of reading, and listing that of asking which images there are.
	fail, listing error
	// takes is how long reading an image takes.
	takes time.Duration
	// reads counts the readings of each image, and changes what was told; most is how many were read at a time.
	reads, changes map[string]int
	busy, most     int
	log            bytes.Buffer
}

func newHost(t *testing.T) *host {
	return &host{
		t: t, path: filepath.Join(t.TempDir(), "db"), images: map[string]preinstalled.Packages{}, takes: time.Second,
		reads: map[string]int{}, changes: map[string]int{},
	}
}

func (h *host) edit(fn func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fn()
}

func packages(names ...string) preinstalled.Packages {
	p := preinstalled.Packages{Names: map[string]bool{}}
	for _, name := range names {
		p.Names[name] = true
	}
	return p
}

// read is Config.Read.
func (h *host) read(ctx context.Context, digest string) (preinstalled.Packages, error) {
	h.edit(func() { h.reads[digest]++; h.busy++; h.most = max(h.most, h.busy) })
	defer h.edit(func() { h.busy-- })
	select {
	case <-time.After(h.takes):
	case <-ctx.Done():
		return preinstalled.Packages{}, ctx.Err()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return preinstalled.Packages{}, h.fail
	}
	p, there := h.images[digest]
	if !there {
		return p, fmt.Errorf("image %s is not on this host: %w", digest, errdefs.ErrNotFound)
	}
	return p, nil
}

// begin begins a life of an agent; end ends it.
func (h *host) begin() (k *Keeper, end func()) {
	h.t.Helper()
	db, err := store.Open(store.Config{Path: h.path})
	if err != nil {
		h.t.Fatal(err)
	}
	k, err = Open(Config{
		DB: db, Read: h.read,
		Images: func(context.Context) ([]string, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			return slices.Collect(maps.Keys(h.images)), h.listing
		},
		Phones:  func() []string { h.mu.Lock(); defer h.mu.Unlock(); return slices.Clone(h.phones) },
		Changed: func(digest string) { h.edit(func() { h.changes[digest]++ }) },
		Logger:  slog.New(slog.NewTextHandler(&h.log, nil)),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	k.Start(h.t.Context())
	return k, func() {
		k.Close()
		if err := db.Close(); err != nil {
			h.t.Error(err)
		}
	}
}

// inBubble runs fn in fake time.
func inBubble(t *testing.T, fn func(t *testing.T, h *host)) {
	t.Helper()
	h := newHost(t)
	synctest.Test(t, func(t *testing.T) { h.t = t; fn(t, h) })
}

// after lets some time pass.
func after(d time.Duration) {
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

// want compares what is known of an image: its packages, or a part of the error.
func (h *host) want(k *Keeper, digest, want string) {
	h.t.Helper()
	synctest.Wait()
	p, err := k.Packages(digest)
	if got := strings.Join(slices.Sorted(maps.Keys(p.Names)), " "); err == nil && got != want || err != nil && (want == "" || !strings.Contains(err.Error(), want)) {
		h.t.Errorf("%s: %q, %v; want %q", digest, got, err, want)
	}
}

// count is how often an image was read.
func (h *host) count(digest string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reads[digest]
}

// TestReadOnce reads images when they come, each once, two at a time, and knows them in the next life.
func TestReadOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.images["a"], h.images["b"], h.images["c"] = packages("com.a", "com.aa"), packages("com.b"), packages()
		k, end := h.begin()
		h.want(k, "a", "being read")
		after(3 * time.Second)
		h.want(k, "a", "com.a com.aa")
		h.want(k, "b", "com.b")
		h.want(k, "c", "")
		h.edit(func() { h.images["d"] = preinstalled.Packages{Names: map[string]bool{"com.d": true}, UnreadAPEX: true} })
		k.ImagesChanged()
		after(2 * time.Second)
		h.want(k, "d", "com.d")
		end()
		k, end = h.begin()
		defer end()
		after(2 * lookTime)
		for _, digest := range []string{"a", "b", "c", "d"} {
			if n := h.count(digest); n != 1 || h.changes[digest] != 1 {
				t.Errorf("%s was read %d times, and told of %d times", digest, n, h.changes[digest])
			}
		}
		h.want(k, "a", "com.a com.aa")
		if p, err := k.Packages("d"); err != nil || !p.UnreadAPEX || !p.Names["com.d"] {
			t.Errorf("d in the next life: %+v, %v", p, err)
		}
		if h.most != atOnce {
			t.Errorf("%d images were read at a time, want %d", h.most, atOnce)
		}
	})
}

// TestAwait has many wait for an image that nobody has told of.
func TestAwait(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.takes = 10 * time.Second
		k, end := h.begin()
		defer end()
		synctest.Wait()
		h.edit(func() { h.images["a"] = packages("com.a") })
		began := time.Now()
		hurried, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var waiting sync.WaitGroup
		for range 20 {
			waiting.Go(func() {
				if err := k.Await(t.Context(), "a"); err != nil || time.Since(began) != h.takes {
					t.Errorf("%v after %v", err, time.Since(began))
				}
			})
			waiting.Go(func() {
				if err := k.Await(hurried, "a"); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("in a hurry: %v", err)
				}
			})
		}
		waiting.Wait()
		if err := k.Await(t.Context(), "a"); err != nil || h.count("a") != 1 {
			t.Errorf("%v, read %d times", err, h.count("a"))
		}
		if err := k.Await(t.Context(), "gone"); !errdefs.IsNotFound(err) {
			t.Errorf("an image that is not there: %v", err)
		}
	})
}

// TestFailure fails for a while: it is told, logged once, and tried again less and less often.
func TestFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.images["a"], h.fail = packages("com.a"), errors.New("disk on fire")
		k, end := h.begin()
		defer end()
		if err := k.Await(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "disk on fire") {
			t.Errorf("%v", err)
		}
		h.want(k, "a", "disk on fire")
		after(time.Hour)
		if n := h.count("a"); n < 60 || n > 75 {
			t.Errorf("tried %d times in an hour", n)
		}
		if n := strings.Count(h.log.String(), "disk on fire"); n != 1 || h.changes["a"] != 1 {
			t.Errorf("logged %d times, told %d times", n, h.changes["a"])
		}
		h.edit(func() { h.fail = nil })
		after(2 * time.Minute)
		h.want(k, "a", "com.a")
		if h.changes["a"] != 2 {
			t.Errorf("told %d times", h.changes["a"])
		}
	})
}

// TestInVain does not try again what cannot change: an image that is refused, until the next life, and one that is gone, until it is back.
func TestInVain(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.phones = []string{"b"}
		h.images["a"], h.fail = packages("com.a"), fmt.Errorf("too many: %w", errdefs.ErrInvalidArgument)
		k, end := h.begin()
		h.want(k, "b", "being read")
		after(time.Hour)
		h.edit(func() { h.fail = nil })
		k.ImagesChanged()
		after(time.Hour)
		h.want(k, "a", "too many")
		if n := h.count("a"); n != 1 {
			t.Errorf("an image that is refused was read %d times", n)
		}
		end()

		k, end = h.begin()
		defer end()
		after(time.Minute)
		h.want(k, "a", "com.a")
		h.want(k, "b", "being read")
		after(time.Hour)
		h.want(k, "b", "not on this host")
		if n := h.count("b"); n != 2 {
			t.Errorf("an image that is gone was read %d times", n)
		}
		h.edit(func() { h.images["b"] = packages("com.b") })
		k.ImagesChanged()
		after(time.Minute)
		h.want(k, "b", "com.b")
	})
}

// TestDrop drops what is known of images that are gone, also in the database; those of phones stay.
func TestDrop(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		for _, digest := range []string{"stays", "phone", "goes"} {
			h.images[digest] = packages("com." + digest)
		}
		h.phones = []string{"phone"}
		k, end := h.begin()
		after(time.Minute)
		h.edit(func() { delete(h.images, "phone"); delete(h.images, "goes"); h.listing = errdefs.ErrUnavailable })
		k.ImagesChanged()
		after(time.Second / 2)
		h.want(k, "goes", "com.goes") // which are gone is not known
		h.edit(func() { h.listing = nil })
		after(time.Minute)
		end()
		k, end = h.begin()
		h.want(k, "stays", "com.stays")
		h.want(k, "phone", "com.phone")
		end()
		for digest, want := range map[string]bool{"stays": true, "phone": true, "goes": false} {
			if there := h.stored(digest, nil); there != want {
				t.Errorf("%s is stored: %t", digest, there)
			}
		}
	})
}

// stored reports whether the database has an image, and edits it if asked.
func (h *host) stored(digest string, put *stored) (there bool) {
	h.t.Helper()
	db, err := store.Open(store.Config{Path: h.path})
	if err != nil {
		h.t.Fatal(err)
	}
	err = db.Update(func(tx *store.Tx) error {
		there = tx.Bucket(store.Preinstalled).Get([]byte(digest)) != nil
		if put == nil {
			return nil
		}
		return table.Put(tx, []byte(digest), *put)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		h.t.Fatal(err)
	}
	return there
}

// TestRevision reads anew what was read by another revision, and drops it if its image is gone.
func TestRevision(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		for _, digest := range []string{"a", "gone"} {
			h.stored(digest, &stored{Revision: preinstalled.Revision + 1, Packages: []string{"com.other"}})
		}
		h.images["a"] = packages("com.a")
		k, end := h.begin()
		after(time.Minute)
		h.want(k, "a", "com.a")
		end()
		if h.stored("gone", nil) {
			t.Error("what is known of an image that is gone is still stored")
		}
	})
}

// TestCloseInTheMiddle ends while images are read and waited for.
func TestCloseInTheMiddle(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		for n := range 5 {
			h.images[fmt.Sprint(n)] = packages("com.a")
		}
		h.takes = time.Hour
		k, end := h.begin()
		synctest.Wait()
		waited := make(chan error)
		go func() { waited <- k.Await(t.Context(), "1") }()
		synctest.Wait()
		end()
		if err := <-waited; !errdefs.IsUnavailable(err) {
			t.Errorf("%v", err)
		}
		if len(h.changes) > 0 || h.log.Len() > 0 {
			t.Errorf("told %v, logged %s", h.changes, h.log.String())
		}
	})
}

func TestConfig(t *testing.T) {
	if _, err := Open(Config{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
}
