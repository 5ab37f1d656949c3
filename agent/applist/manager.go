package applist

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/feed"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/agent/store"
)

// Reasons of refusals, beside those of package fault; docs/api.md has them.
const (
	// InUse means that phones are on the list.
	InUse = "APP_LIST_IN_USE"
	// TooMany means that the host has as many lists as it keeps.
	TooMany = "TOO_MANY_APP_LISTS"
	// StrictNotKept means that the list is strict, and the host's kernel does not keep all of it.
	StrictNotKept = "STRICT_NOT_KEPT"
	// SharedUID means that the list would deny apps which it does not mean to.
	SharedUID = "SHARED_UID"
	// Failed means that a change is stored and could not be brought about on a phone yet.
	Failed = "APP_LIST_FAILED"
)

// Config is what a Manager works with. All fields but those that say otherwise are required.
type Config struct {
	// DB and Journal are open; the Manager closes neither.
	DB      *store.DB
	Journal *event.Journal
	// Enforcer, Guests and Packages are the world.
	Enforcer Enforcer
	Guests   Guests
	Packages Packages
	// Images knows the packages that came with images. Whoever makes it calls ImageChanged for it.
	Images Images
	// Logger takes what could not be put in force.
	Logger *slog.Logger
	// Now is the host's wall clock; nil means time.Now.
	Now func() time.Time
}

// Manager keeps the lists and applies them.
type Manager struct {
	cfg Config
	// turn has room for whoever changes lists: phones get them in the order in which they were stored.
	turn chan struct{}
	// phones is set by Start, before anything else is called but CheckAssign.
	phones Phones
	cancel context.CancelFunc
	wg     sync.WaitGroup

	denials feed.Feed[Denial]
	told    chan []Denial // to the journal's goroutine
	ended   chan struct{} // closed when nobody reports any more
	drains  chan struct{} // something is in dirty

	mu sync.Mutex
	// lists holds what is stored, by name.
	lists map[string]*known
	// wards holds what is known of the phones that are or were on lists, by id.
	wards map[string]*ward
	// dirty holds the slots of which refusals are to be read.
	dirty map[uint32]bool
	// epoch counts the changes of what the host's kernel refuses.
	epoch uint64
	// changes counts the changes of many phones that are under way. Guests are told when they are over: the kernel is told first, of all phones.
	changes int
}

// Open reads the lists and what is known of the phones' apps. Start begins to apply them.
func Open(cfg Config) (*Manager, error) {
	if cfg.DB == nil || cfg.Journal == nil || cfg.Enforcer == nil || cfg.Guests == nil || cfg.Packages == nil || cfg.Images == nil || cfg.Logger == nil {
		return nil, fmt.Errorf("open app lists: every part of the configuration is required: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	m := &Manager{
		cfg: cfg, turn: make(chan struct{}, 1), told: make(chan []Denial), ended: make(chan struct{}), drains: make(chan struct{}, 1),
		lists: map[string]*known{}, wards: map[string]*ward{}, dirty: map[uint32]bool{}, cancel: func() {},
	}
	return m, m.load()
}

// Start makes the kernel's rules what is stored, and begins to follow the phones. It is called once, when the supervisor has been made and
// before it is started, so that no guest is started without its rules.
func (m *Manager) Start(ctx context.Context, phones Phones) {
	m.phones = phones
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.cancel = cancel
	m.wg.Go(m.writeJournal)
	m.sweep(ctx)
	var readers sync.WaitGroup // who report
	readers.Go(func() { m.hear(running) })
	readers.Go(func() { m.readRefusals(running) })
	readers.Go(func() { m.watch(running) })
	readers.Go(func() { m.patrol(running) })
	m.wg.Go(func() {
		readers.Wait()
		close(m.ended)
	})
}

// Close ends what runs and waits for it. What the kernel enforces it goes on enforcing.
func (m *Manager) Close() {
	m.cancel()
	m.wg.Wait()
}

// sweep sets the rules of phones that are on lists, and takes away those of all others. What cannot be done is done by the followers, or at the
// phone's start.
func (m *Manager) sweep(ctx context.Context) {
	owners := map[uint32]string{}
	for _, snap := range m.phones.List() {
		owners[snap.Record.Slot] = snap.Record.Spec.ID
	}
	for cgroup, slot := range m.cfg.Enforcer.Phones() {
		id, owned := owners[slot]
		if owned {
			m.dirty[slot] = true
			m.ward(id) // whatever the kernel has of it is looked at
			continue
		}
		if err := m.cfg.Enforcer.RemovePhone(cgroup); err != nil {
			m.cfg.Logger.Warn("rules of apps of a phone that is gone are still in the kernel", "cgroup", cgroup, "error", err)
		}
	}
	var ids []string
	for _, snap := range m.phones.List() {
		if m.wanted(snap) != nil {
			ids = append(ids, snap.Record.Spec.ID)
		}
	}
	m.applyEach(ctx, ids) // what fails is kept with the phone, and logged
	m.signal(m.drains)
}

// ImageChanged tells that something else is known of an image than before: the lists of the phones that are made from it are looked at again.
func (m *Manager) ImageChanged(digest string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.wards {
		// What has not been applied yet has no image, and is looked at in any case.
		if w.apps.image == digest {
			w.imageChanges++
			m.signal(w.wake)
		}
	}
}

// signal wakes who waits at a channel that has room for one.
func (*Manager) signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// takeTurn waits for the turn to change lists.
func (m *Manager) takeTurn(ctx context.Context) (done func(), err error) { return take(ctx, m.turn) }

// take waits for a turn.
func take(ctx context.Context, turn chan struct{}) (done func(), err error) {
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// watch hears of the phones' changes, until the context ends, and waits for the followers.
func (m *Manager) watch(ctx context.Context) {
	w := m.phones.Watch(nil)
	defer w.Close()
	var followers sync.WaitGroup
	defer followers.Wait()
	for {
		changes, err := w.Next(ctx)
		if err != nil {
			return
		}
		for _, c := range changes {
			if !c.Deleted {
				m.look(ctx, c.Snapshot, &followers)
			}
		}
	}
}

// look wakes the follower of a phone, or begins one where the phone needs it.
func (m *Manager) look(ctx context.Context, snap phone.Snapshot, followers *sync.WaitGroup) {
	w := m.wanted(snap)
	if w == nil {
		return
	}
	m.mu.Lock()
	begin := !w.followed
	w.followed = true
	m.mu.Unlock()
	if begin {
		followers.Go(func() { m.follow(ctx, w) })
	}
	m.signal(w.wake)
}
