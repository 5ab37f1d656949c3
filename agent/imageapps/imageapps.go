// Package imageapps keeps which packages came with the images of this host.
//
// They are read from an image's files (runtime/image/preinstalled) once, in the background: when the image has come to this host, when an agent
// starts that does not know them, or when they are first asked for. They are stored in the bucket "preinstalled" (drawn in agent/store) by the image's
// digest, and dropped when no image and no phone has that digest any more.
//
// What cannot be read is logged and tried again, from a second up to a minute later, until it is read or its image is gone. An image that is
// refused is not tried again by this agent, since it does not change.
//
// # Goroutines
//
// A Keeper owns one goroutine that looks at what images there are, and one for each image that is to be read, of which two work at a time. Close waits
// for all. Its methods may be called by many goroutines at once.
package imageapps

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/image/preinstalled"
)

// Config is what a Keeper works with. All fields are required.
type Config struct {
	// DB is open; the Keeper does not close it.
	DB *store.DB
	// Read reads the packages of an image, by its digest. Errors: ErrNotFound of errdefs where there is no such image, ErrInvalidArgument for one
	// that is refused; others are tried again.
	Read func(ctx context.Context, digest string) (preinstalled.Packages, error)
	// Images returns the digests of the images of this host, and Phones those of the images that phones are made from.
	Images func(ctx context.Context) ([]string, error)
	Phones func() []string
	// Changed is called when something else is known of an image than before, or that it cannot be read. It may call the Keeper.
	Changed func(digest string)
	// Logger takes what could not be read.
	Logger *slog.Logger
}

const (
	// readTime bounds one reading of an image; a phone's image takes some seconds.
	readTime = 2 * time.Minute
	// atOnce is how many images are read at a time.
	atOnce = 2
	// lookTime is how often images are looked at that nobody has told of.
	lookTime = time.Hour
)

// retryTimes are the least and the most time between two tries.
var retryTimes = [2]time.Duration{time.Second, time.Minute}

// stored is what the database has of an image.
type stored struct {
	// Revision is that of what has read it (preinstalled.Revision).
	Revision int      `json:"revision"`
	Packages []string `json:"packages"`
	// UnreadAPEX is preinstalled.Packages'.
	UnreadAPEX bool `json:"unread_apex,omitempty"`
}

// table is their bucket.
var table = store.Table[stored]{Bucket: store.Preinstalled, What: "packages of image"}

// entry is what is known of an image.
type entry struct {
	// packages are not changed once err is nil.
	packages preinstalled.Packages
	// err is why they are not known; nil where they are.
	err error
	// wanted is whether it is to be read, until that has come to an end, and tried is closed when that was tried once.
	wanted bool
	tried  chan struct{}
}

// errReading means that an image's packages are to be read.
var errReading = fmt.Errorf("they are being read: %w", errdefs.ErrUnavailable)

func unread() *entry { return &entry{err: errReading, tried: make(chan struct{})} }

// final reports whether a reading that ended so is the last.
func final(err error) bool {
	return err == nil || errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err)
}

// Keeper keeps the packages of the images.
type Keeper struct {
	cfg    Config
	cancel context.CancelFunc
	wg     sync.WaitGroup
	turns  chan struct{} // has room for those who read
	look   chan struct{} // has something when images may have come or gone
	work   chan struct{} // has something when something is in pending
	ended  chan struct{} // closed by Close

	mu      sync.Mutex
	entries map[string]*entry // by digest
	pending []string          // whose reading is to begin
}

// Open reads what is stored. Start begins to read images.
func Open(cfg Config) (*Keeper, error) {
	if cfg.DB == nil || cfg.Read == nil || cfg.Images == nil || cfg.Phones == nil || cfg.Changed == nil || cfg.Logger == nil {
		return nil, fmt.Errorf("open packages of images: every part of the configuration is required: %w", errdefs.ErrInvalidArgument)
	}
	k := &Keeper{
		cfg: cfg, cancel: func() {}, turns: make(chan struct{}, atOnce), look: make(chan struct{}, 1), work: make(chan struct{}, 1),
		ended: make(chan struct{}), entries: map[string]*entry{},
	}
	return k, cfg.DB.View(func(tx *store.Tx) error {
		for e := range table.All(tx) {
			if e.Err != nil || e.Value.Revision != preinstalled.Revision {
				k.entries[e.Key] = unread()
				continue
			}
			k.entries[e.Key] = &entry{packages: e.Value.packages()}
		}
		return nil
	})
}

// packages returns what is stored.
func (s stored) packages() preinstalled.Packages {
	p := preinstalled.Packages{Names: make(map[string]bool, len(s.Packages)), UnreadAPEX: s.UnreadAPEX}
	for _, name := range s.Packages {
		p.Names[name] = true
	}
	return p
}

// Start begins to read images, and to look at which there are. It is called once.
func (k *Keeper) Start(ctx context.Context) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	k.cancel = cancel
	k.ImagesChanged()
	k.wg.Go(func() { k.run(running) })
}

// Close ends what is being read and waits for it. It is called once.
func (k *Keeper) Close() {
	close(k.ended)
	k.cancel()
	k.wg.Wait()
}

// ImagesChanged tells that images have come or gone, and returns at once.
func (k *Keeper) ImagesChanged() { signal(k.look) }

// signal wakes who waits at a channel that has room for one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Packages returns the packages that came with an image, which are not to be changed. Where they are not known it has them be read, unless that
// was in vain, and the error says why they are not.
func (k *Keeper) Packages(digest string) (preinstalled.Packages, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.need(digest)
	return e.packages, e.err
}

// Await waits until an image's packages are known, or were tried to be read in vain: then the error says why.
func (k *Keeper) Await(ctx context.Context, digest string) error {
	k.mu.Lock()
	e := k.need(digest)
	known, tried := e.err == nil, e.tried
	k.mu.Unlock()
	if known {
		return nil
	}
	select {
	case <-tried:
	case <-k.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return e.err
}

// need returns what is known of an image, and has it be read where that is nothing. k.mu is held.
func (k *Keeper) need(digest string) *entry {
	e := k.entries[digest]
	if e == nil {
		e = unread()
		k.entries[digest] = e
	}
	if !e.wanted && !final(e.err) {
		e.wanted = true
		k.pending = append(k.pending, digest)
		signal(k.work)
	}
	return e
}

// run has images be read, and looks at what images there are, until the context ends.
func (k *Keeper) run(ctx context.Context) {
	every := time.NewTicker(lookTime)
	defer every.Stop()
	pause := retryTimes[0]
	var again <-chan time.Time
	for {
		select {
		case <-k.work:
			k.begin(ctx)
			continue
		case <-k.look:
		case <-every.C:
		case <-again:
		case <-ctx.Done():
			return
		}
		again = nil
		err := k.sync(ctx)
		if err == nil {
			pause = retryTimes[0]
			continue
		}
		if ctx.Err() == nil {
			k.cfg.Logger.Warn("images not looked at for their packages; it is tried again", "error", err)
		}
		again = time.After(pause)
		pause = min(2*pause, retryTimes[1])
	}
}

// begin begins the readings that are pending.
func (k *Keeper) begin(ctx context.Context) {
	k.mu.Lock()
	pending := k.pending
	k.pending = nil
	k.mu.Unlock()
	for _, digest := range pending {
		k.wg.Go(func() { k.read(ctx, digest) })
	}
}

// read reads an image until that has succeeded, or is in vain, or the context ends.
func (k *Keeper) read(ctx context.Context, digest string) {
	for pause := retryTimes[0]; !final(k.try(ctx, digest)); pause = min(2*pause, retryTimes[1]) {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// try reads an image once, and keeps how that went.
func (k *Keeper) try(ctx context.Context, digest string) error {
	select {
	case k.turns <- struct{}{}:
		defer func() { <-k.turns }()
	case <-ctx.Done():
		return ctx.Err()
	}
	began := time.Now()
	reading, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	found, err := k.cfg.Read(reading, digest)
	if err == nil {
		err = k.store(digest, found)
	}
	if ctx.Err() != nil {
		return ctx.Err() // the next agent reads it
	}
	if err == nil {
		k.cfg.Logger.Info("packages of an image read", "image_digest", digest, "packages", len(found.Names), "unread_apex", found.UnreadAPEX, "took", time.Since(began))
	}
	k.settle(digest, found, err)
	return err
}

// store stores the packages of an image.
func (k *Keeper) store(digest string, p preinstalled.Packages) error {
	return k.cfg.DB.Update(func(tx *store.Tx) error {
		return table.Put(tx, []byte(digest), stored{Revision: preinstalled.Revision, Packages: slices.Sorted(maps.Keys(p.Names)), UnreadAPEX: p.UnreadAPEX})
	})
}

// settle keeps how a reading went, and tells of it.
func (k *Keeper) settle(digest string, found preinstalled.Packages, err error) {
	k.mu.Lock()
	e := k.entries[digest] // one that is wanted is not dropped
	news := err == nil || e.err.Error() != err.Error()
	if errors.Is(e.err, errReading) {
		close(e.tried)
	}
	e.packages, e.err, e.wanted = found, err, !final(err)
	k.mu.Unlock()
	if !news {
		return
	}
	if err != nil {
		k.cfg.Logger.Warn("packages of an image not read", "image_digest", digest, "tried_again", !final(err), "error", err)
	}
	k.cfg.Changed(digest)
}

// sync has images be read that are not known, and drops what is known of those that are gone.
func (k *Keeper) sync(ctx context.Context) error {
	k.mu.Lock()
	before := slices.Collect(maps.Keys(k.entries)) // one that comes meanwhile is not taken for gone
	k.mu.Unlock()
	listed, err := k.cfg.Images(ctx)
	if err != nil {
		return err
	}
	used := k.cfg.Phones()
	k.mu.Lock()
	gone := slices.DeleteFunc(before, func(digest string) bool {
		return slices.Contains(listed, digest) || slices.Contains(used, digest) || k.entries[digest].wanted
	})
	for _, digest := range gone {
		delete(k.entries, digest)
	}
	for _, digest := range listed {
		if e := k.entries[digest]; e != nil && errdefs.IsNotFound(e.err) {
			k.entries[digest] = unread() // it has come back
		}
		k.need(digest)
	}
	k.mu.Unlock()
	return k.drop(gone)
}

// drop removes images from the database.
func (k *Keeper) drop(gone []string) error {
	if len(gone) == 0 {
		return nil
	}
	return k.cfg.DB.Update(func(tx *store.Tx) error {
		var errs []error
		for _, digest := range gone {
			errs = append(errs, table.Delete(tx, []byte(digest)))
		}
		return errors.Join(errs...)
	})
}
