package network

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/feed"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// Reasons of refusals, beside those of package fault; docs/api.md has them.
const (
	// BadPolicy means that a text is no policy.
	BadPolicy = "BAD_POLICY"
	// PolicyInUse means that phones have the policy.
	PolicyInUse = "POLICY_IN_USE"
	// TooManyPolicies means that the host has as many policies as it keeps.
	TooManyPolicies = "TOO_MANY_POLICIES"
)

// Config is what a Manager works with. All fields but Now and OnProblems are required.
type Config struct {
	// DB and Journal are open; the Manager closes neither.
	DB      *store.DB
	Journal *event.Journal
	// Engine is the engine of networks.
	Engine Engine
	// Parse reads a policy's text (policy.Parse); its errors name the line or rule.
	Parse func(text []byte) (policy.Policy, error)
	// Users names the phones that have a policy, as a transaction sees them (phone.PolicyUsers).
	Users func(tx *store.Tx, name string) []string
	// Logger takes what could not be put in force.
	Logger *slog.Logger
	// Now is the host's wall clock; nil means time.Now.
	Now func() time.Time
	// OnProblems is called with the policies that are stored and not in force as they are, in the order of their names and with their Problem,
	// when these may have changed: one call at a time. It must not call the Manager.
	OnProblems func([]Policy)
}

func (c Config) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

// Manager keeps the policies, and hands on what the engine reports.
type Manager struct {
	cfg Config
	// turn has room for whoever changes policies: the kernel gets them in the order in which they were stored.
	turn chan struct{}
	// retry has something to be tried again.
	retry  chan struct{}
	cancel context.CancelFunc
	wg     sync.WaitGroup

	refused chan []netpolicy.Denial // what the name server has refused
	denials feed.Feed[netpolicy.Denial]
	flows   feed.Feed[netpolicy.Flow]
	totals  totals

	telling sync.Mutex // held while OnProblems is called; taken before mu

	mu sync.Mutex
	// policies holds what is stored, by name.
	policies map[string]*known
}

// Open reads the policies, puts all of them in force, and begins to hand on what the engine reports. It is called before any phone is
// adopted or started. A policy that cannot be put in force is told by List, and tried again.
func Open(ctx context.Context, cfg Config) (*Manager, error) {
	if cfg.DB == nil || cfg.Journal == nil || cfg.Engine == nil || cfg.Parse == nil || cfg.Users == nil || cfg.Logger == nil {
		return nil, fmt.Errorf("open network policies: every part of the configuration is required: %w", errdefs.ErrInvalidArgument)
	}
	m := &Manager{cfg: cfg, turn: make(chan struct{}, 1), retry: make(chan struct{}, 1), refused: make(chan []netpolicy.Denial), policies: map[string]*known{}}
	say, err := m.load()
	if err != nil {
		return nil, err
	}
	m.setAll(ctx, say)
	m.tellProblems() // those that cannot be read, too
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.cancel = cancel
	denials, flows := cfg.Engine.Denials(running), cfg.Engine.WatchFlows(running)
	m.wg.Go(func() { m.readDenials(denials) })
	m.wg.Go(func() {
		for f := range flows {
			m.flows.Send(f)
		}
	})
	m.wg.Go(func() { m.tryAgain(running) })
	return m, nil
}

// Close ends what runs and waits for it. What the kernel enforces it goes on enforcing.
func (m *Manager) Close() {
	m.cancel()
	m.wg.Wait()
}

// takeTurn waits for the turn to change policies.
func (m *Manager) takeTurn(ctx context.Context) (done func(), err error) {
	select {
	case m.turn <- struct{}{}:
		return func() { <-m.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// retryTimes are the least and the most time between two tries to put a policy in force.
var retryTimes = [2]time.Duration{time.Second, time.Minute}

// tryAgain puts in force what could not be, until the context ends.
func (m *Manager) tryAgain(ctx context.Context) {
	wait := retryTimes[0]
	for {
		select {
		case <-m.retry:
		case <-ctx.Done():
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if m.mend(ctx) {
			wait = retryTimes[0]
		} else {
			wait = min(2*wait, retryTimes[1])
		}
	}
}

// mend tries once to put in force what is not, and reports whether all is by then.
func (m *Manager) mend(ctx context.Context) bool {
	done, err := m.takeTurn(ctx)
	if err != nil {
		return false
	}
	defer done()
	m.mu.Lock()
	var names []string
	for name, k := range m.policies {
		if k.fails > 0 {
			names = append(names, name)
		}
	}
	m.mu.Unlock()
	slices.Sort(names)
	well := true
	for _, name := range names {
		well = m.mendPolicy(ctx, name) == nil && well
	}
	return well
}

// mendPolicy brings the kernel in line with what is stored of a policy. The turn is taken.
func (m *Manager) mendPolicy(ctx context.Context, name string) error {
	var s stored
	err := m.cfg.DB.View(func(tx *store.Tx) (err error) {
		s, err = table.Get(tx, []byte(name))
		return err
	})
	if err != nil {
		return err
	}
	if s.Deleting {
		return m.drop(ctx, name)
	}
	p, err := m.parse(s.Text)
	if err != nil {
		return err
	}
	return m.set(ctx, name, p)
}

// WatchDenials watches what is dropped of phones, all of them if none is named, from now on. The watcher must be closed.
func (m *Manager) WatchDenials(ids []string) *feed.Watcher[netpolicy.Denial] {
	wants := feed.Among(ids)
	return m.denials.Watch(func(d netpolicy.Denial) bool { return wants(d.Phone) })
}

// WatchFlows watches the sampled flows of phones, all of them if none is named, from now on. The watcher must be closed.
func (m *Manager) WatchFlows(ids []string) *feed.Watcher[netpolicy.Flow] {
	wants := feed.Among(ids)
	return m.flows.Watch(func(f netpolicy.Flow) bool { return wants(f.Phone) })
}

func hexOf(sum [32]byte) string { return hex.EncodeToString(sum[:]) }
