package tunnel

import (
	"context"
	"crypto/x509"
	"log/slog"
	"sync"
	"time"
)

// supervisor keeps one session of one kind to one address: run is its goroutine and holds all of its state; each session
// has an owner that ends it.
type supervisor struct {
	dial     func(context.Context) (link, error)
	leaf     func() *x509.Certificate // the certificate that the next dial will show
	drain    time.Duration
	observer Observer
	logger   *slog.Logger
	failed   func(err error, retry time.Duration)
}

// run returns when ctx is done and every session has been drained and closed.
func (s *supervisor) run(ctx context.Context) {
	var owners sync.WaitGroup
	defer owners.Wait()
	var retry delays
	var current link
	for ctx.Err() == nil {
		leaf := s.leaf()
		next, err := s.dial(ctx)
		if err != nil {
			if ctx.Err() == nil {
				delay := retry.next()
				s.failed(err, delay)
				sleep(ctx, delay)
			}
			continue
		}
		owners.Go(func() { s.own(ctx, next) })
		if current != nil {
			current.Drain("renewed with a newer certificate")
		}
		current = next
		began := time.Now()
		if s.watch(ctx, next, leaf) == renew {
			continue // the next session is made before this one ends
		}
		current = nil
		retry.lived(time.Since(began))
		sleep(ctx, retry.next())
	}
}

func (s *supervisor) own(ctx context.Context, l link) {
	info := l.Info()
	s.logger.Info("session opened", "identity", info.Identity.String())
	s.observer.opened(info)
	keep(ctx, l, s.drain)
	s.logger.Info("session closed", "identity", info.Identity.String(), "cause", l.Cause())
	s.observer.closed(info, l.Cause())
}

// verdict is what becomes of a session.
type verdict int

const (
	lost  verdict = iota // it ended, or will soon
	renew                // it lives, and a newer certificate is there
)

// renewFloor is the least time between two looks at the certificate files.
const renewFloor = time.Minute

// watch waits until a session is lost or should be renewed: at half of what is left of its certificate's time it looks
// whether there is a newer one.
func (s *supervisor) watch(ctx context.Context, l link, leaf *x509.Certificate) verdict {
	for {
		look := time.NewTimer(max(time.Until(leaf.NotAfter)/2, renewFloor))
		select {
		case <-l.Done():
			look.Stop()
			return lost
		case <-l.Draining():
			look.Stop()
			return lost
		case <-ctx.Done():
			look.Stop()
			return lost
		case <-look.C:
			if s.leaf() != leaf {
				return renew
			}
		}
	}
}
