package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Progress is how far a pull has come.
type Progress struct {
	// Step is what is under way, for people.
	Step string
	// FetchedBytes of TotalBytes have come; the total grows as the image's parts become known.
	FetchedBytes, TotalBytes uint64
}

// progressEvery is how often a pull reports: containerd has no event for bytes that have come.
const progressEvery = 200 * time.Millisecond

// Pull fetches an image by reference and unpacks it. progress may be nil; it is called by one goroutine at a time, and not after Pull has
// returned. Registries on localhost are spoken to in plain HTTP when they do not speak TLS.
//
// Errors: ErrInvalidArgument of errdefs for a bad reference, ErrNotFound, ErrUnavailable when the registry cannot be reached.
func (s *Store) Pull(ctx context.Context, ref string, progress func(Progress)) (_ Image, err error) {
	name, err := FullName(ref)
	if err != nil {
		return Image{}, err
	}
	ctx, release, err := s.lease(ctx)
	if err != nil {
		return Image{}, err
	}
	defer func() { release(err != nil) }()
	defer s.restore(ctx, name, &err)() // before the lease is released

	watch := &watch{store: s, report: progress}
	stop := watch.start(ctx)
	fetched, err := s.client.Fetch(ctx, name,
		containerd.WithResolver(docker.NewResolver(docker.ResolverOptions{
			Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost)),
		})),
		containerd.WithPlatformMatcher(platforms.Default()),
		containerd.WithImageHandler(images.HandlerFunc(watch.seen)),
	)
	stop()
	if err != nil {
		return Image{}, fmt.Errorf("pull image %s: %w", name, unreachable(err))
	}
	if progress != nil {
		progress(Progress{Step: "unpacking", FetchedBytes: watch.total(), TotalBytes: watch.total()})
	}
	if err := s.complete(ctx, name, fetched.Target); err != nil {
		return Image{}, err
	}
	return s.publish(ctx, fetched)
}

// restore remembers what name stands for, and puts it back when err is set: the fetcher lists an image before it is unpacked.
func (s *Store) restore(ctx context.Context, name string, err *error) func() {
	service := s.client.ImageService()
	before, missing := service.Get(ctx, name)
	return func() {
		if *err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		var undo error
		switch {
		case missing == nil:
			_, undo = service.Update(ctx, before, "target")
		case errdefs.IsNotFound(missing):
			undo = service.Delete(ctx, name)
		}
		if undo != nil && !errdefs.IsNotFound(undo) {
			*err = errors.Join(*err, fmt.Errorf("undo: %w", undo))
		}
	}
}

// unreachable gives errors of the network their class.
func unreachable(err error) error {
	var netErr net.Error
	var urlErr *url.Error
	if errors.As(err, &netErr) || errors.As(err, &urlErr) {
		return fmt.Errorf("%v: %w", err, errdefs.ErrUnavailable)
	}
	return err
}

// watch counts what a pull fetches. Its goroutine ends with stop.
type watch struct {
	store  *Store
	report func(Progress)

	mu    sync.Mutex
	parts map[digest.Digest]int64 // sizes
}

// seen is called by the fetcher with every part of the image before it is fetched.
func (w *watch) seen(_ context.Context, part ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.parts == nil {
		w.parts = map[digest.Digest]int64{}
	}
	w.parts[part.Digest] = part.Size
	return nil, nil
}

func (w *watch) total() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	var sum int64
	for _, size := range w.parts {
		sum += size
	}
	return uint64(sum)
}

// start reports until the returned func is called, which waits for the last report.
func (w *watch) start(ctx context.Context) (stop func()) {
	if w.report == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				w.report(Progress{Step: "fetching", FetchedBytes: w.fetched(ctx), TotalBytes: w.total()})
			}
		}
	}()
	return func() { cancel(); <-done }
}

// fetched is all that is no longer missing: whole parts, and what has come of those under way.
func (w *watch) fetched(ctx context.Context) uint64 {
	cs := w.store.client.ContentStore()
	underWay := map[digest.Digest]int64{}
	if list, err := cs.ListStatuses(ctx); err == nil {
		for _, st := range list {
			underWay[st.Expected] = st.Offset
		}
	}
	w.mu.Lock()
	parts := maps.Clone(w.parts)
	w.mu.Unlock()
	var sum int64
	for part, size := range parts {
		if offset, ok := underWay[part]; ok {
			sum += offset
		} else if _, err := cs.Info(ctx, part); err == nil {
			sum += size
		}
	}
	return uint64(sum)
}
