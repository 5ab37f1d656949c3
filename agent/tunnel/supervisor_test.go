package tunnel

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeLink is a session without a network.
type fakeLink struct {
	info     SessionInfo
	done     chan struct{}
	draining chan struct{}
	drained  sync.Once
	ended    sync.Once
	linger   time.Duration // how long its streams go on after a drain

	mu    sync.Mutex
	why   string
	endAt time.Time
}

func newFakeLink() *fakeLink {
	return &fakeLink{
		info: SessionInfo{PeerExpires: time.Now().Add(1000 * time.Hour)},
		done: make(chan struct{}), draining: make(chan struct{}),
	}
}

func (l *fakeLink) Info() SessionInfo         { return l.info }
func (l *fakeLink) Done() <-chan struct{}     { return l.done }
func (l *fakeLink) Draining() <-chan struct{} { return l.draining }
func (l *fakeLink) Cause() error              { return nil }
func (l *fakeLink) DrainCause() string        { l.mu.Lock(); defer l.mu.Unlock(); return l.why }

func (l *fakeLink) Drain(why string) {
	l.drained.Do(func() {
		l.mu.Lock()
		l.why = why
		l.mu.Unlock()
		close(l.draining)
	})
}

func (l *fakeLink) Shutdown(ctx context.Context, why string) {
	l.Drain(why)
	select {
	case <-time.After(l.linger):
	case <-ctx.Done():
	case <-l.done:
	}
	l.end()
}

func (l *fakeLink) end() {
	l.ended.Do(func() {
		l.mu.Lock()
		l.endAt = time.Now()
		l.mu.Unlock()
		close(l.done)
	})
}

func (l *fakeLink) open() bool {
	select {
	case <-l.done:
		return false
	default:
		return true
	}
}

// longLeaf is a certificate that outlives every test.
func longLeaf() *x509.Certificate {
	return &x509.Certificate{NotAfter: time.Now().Add(10000 * time.Hour)}
}

// start runs a supervisor in the bubble; stop ends it.
func start(t *testing.T, s supervisor) (stop func()) {
	t.Helper()
	if s.leaf == nil {
		leaf := longLeaf()
		s.leaf = func() *x509.Certificate { return leaf }
	}
	if s.failed == nil {
		s.failed = func(error, time.Duration) {}
	}
	s.logger = slog.New(slog.DiscardHandler)
	if s.drain == 0 {
		s.drain = 10 * time.Second
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.run(ctx) })
	return func() { cancel(); running.Wait() }
}

// TestDialOutBacksOff fails every attempt: the ceiling of the delays doubles from 250 ms to 30 s, and each delay is kept.
func TestDialOutBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type attempt struct{ at, retry time.Duration }
		began := time.Now()
		attempts := make(chan attempt, 100)
		stop := start(t, supervisor{
			dial:   func(context.Context) (link, error) { return nil, errors.New("refused") },
			failed: func(_ error, retry time.Duration) { attempts <- attempt{time.Since(began), retry} },
		})
		time.Sleep(10 * time.Minute)
		stop()
		close(attempts)
		ceiling, next, n, most := backoffFirst, time.Duration(0), 0, time.Duration(0)
		for a := range attempts {
			if a.at != next {
				t.Errorf("attempt %d came at %v, want %v", n, a.at, next)
			}
			if a.retry <= 0 || a.retry > ceiling {
				t.Errorf("delay %d is %v, want within (0, %v]", n, a.retry, ceiling)
			}
			next, ceiling, n, most = a.at+a.retry, min(2*ceiling, backoffLast), n+1, max(most, a.retry)
		}
		// 7 attempts on the way up, then one each 15 s on average: fewer than 20 of them in 10 minutes has a chance below 1e-6.
		if n < 20 || most <= 4*time.Second {
			t.Errorf("%d attempts in 10 minutes, the longest delay %v", n, most)
		}
	})
}

// TestShortLivesAreNoSuccess accepts every dial and hangs up at once: that must not be met with fast attempts; a session that
// lives for the grace period starts the delays anew.
func TestShortLivesAreNoSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		links := make(chan *fakeLink, 1)
		stop := start(t, supervisor{dial: func(context.Context) (link, error) {
			l := newFakeLink()
			links <- l
			return l, nil
		}})
		defer stop()
		cycle := func(life time.Duration) (delay time.Duration) {
			l := <-links
			time.Sleep(life)
			l.end()
			began := time.Now()
			synctest.Wait()
			next := <-links
			delay = time.Since(began)
			links <- next
			return delay
		}
		var sum time.Duration
		for range 20 {
			sum += cycle(time.Second)
		}
		if sum < 30*time.Second {
			t.Errorf("20 short lives were followed by delays of %v in all, want many seconds", sum)
		}
		if d := cycle(backoffGrace); d > backoffFirst {
			t.Errorf("the delay after a long life is %v, want %v at most", d, backoffFirst)
		}
	})
}

// TestDialOutShutsDown ends a supervisor: its session is drained, its streams get their time, and run returns.
func TestDialOutShutsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLink()
		l.linger = 3 * time.Second
		stop := start(t, supervisor{dial: func(context.Context) (link, error) { return l, nil }})
		synctest.Wait()
		began := time.Now()
		stop()
		if d := time.Since(began); d != l.linger || l.open() {
			t.Errorf("stopped after %v, want %v; open: %v", d, l.linger, l.open())
		}
		if l.DrainCause() != "the other side is shutting down" {
			t.Errorf("drain cause = %q", l.DrainCause())
		}
	})
}

// TestDrainedSessionIsReplaced is a control plane that says it will go: another session is made while the old one ends.
func TestDrainedSessionIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made []*fakeLink
		stop := start(t, supervisor{dial: func(context.Context) (link, error) {
			l := newFakeLink()
			l.linger = 9 * time.Second
			made = append(made, l)
			return l, nil
		}})
		defer stop()
		synctest.Wait()
		made[0].Drain("the other side is shutting down")
		time.Sleep(backoffFirst)
		synctest.Wait()
		if len(made) != 2 || !made[0].open() || !made[1].open() {
			t.Fatalf("%d sessions after a drain, want the old and a new one, both open", len(made))
		}
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if made[0].open() || !made[1].open() {
			t.Error("the old session did not end, or the new one did")
		}
	})
}

// TestRenewal changes the certificate under a session: the next one is made before the old one drains, and not before half of
// the certificate's time has passed.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var current atomic.Pointer[x509.Certificate]
		current.Store(&x509.Certificate{NotAfter: time.Now().Add(8 * time.Hour)})
		var made []*fakeLink
		var refuse atomic.Bool
		stop := start(t, supervisor{
			leaf: current.Load,
			dial: func(context.Context) (link, error) {
				if refuse.Load() {
					return nil, errors.New("refused")
				}
				l := newFakeLink()
				l.linger = time.Second
				made = append(made, l)
				return l, nil
			},
		})
		defer stop()
		time.Sleep(4*time.Hour + time.Second) // looked, and found the same certificate
		synctest.Wait()
		if len(made) != 1 {
			t.Fatalf("%d sessions with one certificate, want 1", len(made))
		}
		current.Store(longLeaf())
		refuse.Store(true)
		time.Sleep(2*time.Hour + time.Minute) // looks at half of the rest, and cannot dial
		synctest.Wait()
		if len(made) != 1 || !made[0].open() {
			t.Fatalf("%d sessions, the first open: %v; want it kept while no other can be made", len(made), made[0].open())
		}
		refuse.Store(false)
		time.Sleep(2 * backoffLast)
		synctest.Wait()
		if len(made) != 2 || made[0].open() || !made[1].open() {
			t.Fatalf("%d sessions after the renewal, the first open: %v", len(made), made[0].open())
		}
		if want := "renewed with a newer certificate"; made[0].DrainCause() != want {
			t.Errorf("drain cause = %q, want %q", made[0].DrainCause(), want)
		}
	})
}

// TestPeerExpires drains the session of a peer whose certificate ends, at that moment.
func TestPeerExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLink()
		l.info.PeerExpires = time.Now().Add(time.Hour)
		began := time.Now()
		keep(t.Context(), l, time.Second)
		if d := l.endAt.Sub(began); d != time.Hour {
			t.Errorf("the session ended after %v, want an hour", d)
		}
		if want := "the certificate of nobody has expired"; l.DrainCause() != want {
			t.Errorf("drain cause = %q, want %q", l.DrainCause(), want)
		}
	})
}
