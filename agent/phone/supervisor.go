package phone

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/container"
)

// Config is what a Supervisor works with. All fields but those that say otherwise are required.
type Config struct {
	// DB, Operations and Journal are open; the supervisor closes none of them.
	DB         *store.DB
	Operations *operation.Table
	Journal    *event.Journal
	// Runtime, Networks, Displays and Images are the world.
	Runtime  Runtime
	Networks Networks
	Displays Displays
	Images   Images
	// Pools are the addresses of the phones; the zero value means that phones have no network but loopback.
	Pools Pools
	// HasPolicy tells whether a phone can be given a network policy; nil means that there is none but netpolicy.DefaultPolicy.
	HasPolicy func(tx *store.Tx, name string) (bool, error)
	// AppLists applies lists of apps; nil means that there is nobody who does. CheckAppList refuses a list that a phone cannot be put on;
	// nil means that there are no lists.
	AppLists     AppLists
	CheckAppList func(tx *store.Tx, name string) error
	// Volumes grows, copies and imports data volumes; nil means that nothing of it can be done.
	Volumes Volumes
	// Archives holds what was received to be imported; nil means that there is nothing.
	Archives Archives
	// Host is what phones may be given at most.
	Host Capacity
	// HostBoot is the kernel's boot id, /proc/sys/kernel/random/boot_id.
	HostBoot string
	// DiskFree returns the free bytes of the file system that holds the phones' data; nil means that it is never low.
	DiskFree func() (uint64, error)
	// DiskReserve is how many bytes of it must stay free for a phone to be created or started.
	DiskReserve uint64
	// Binder tells what the host's kernel offers of binder; nil means that it is never short.
	Binder func() (binder.Support, error)
	// ConcurrentBoots is how many phones boot at once; 0 means Host.CPUs, and at least 2.
	ConcurrentBoots int
	// OnAdmitted is told how long each phone waited for its boot slot; nil means that nobody is. It must be quick and must not call
	// the supervisor.
	OnAdmitted func(waited time.Duration)
	// Now is the host's wall clock, by which leases are judged; nil means time.Now.
	Now func() time.Time
	// ClockSet reports, until the context ends, that the wall clock was set; nil means that it never is.
	ClockSet func(context.Context) <-chan struct{}
	// OnContainerd is told when containerd is lost and when it is back; nil means that nobody is. It must be quick and must
	// not call the supervisor.
	OnContainerd func(lost bool)
	// Timing holds the times; its zero value means the defaults.
	Timing Timing
	// Logger takes what the controllers do.
	Logger *slog.Logger
}

// Supervisor keeps the phones and their controllers. Its methods may be called by many goroutines at once.
type Supervisor struct {
	cfg    Config
	timing Timing
	// began is when the supervisor was made.
	began time.Time
	// ctx ends with Close; it bounds every controller.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu sync.Mutex
	// phones holds every phone that has a record, by id.
	phones map[string]*controller
	// broken holds the phones whose record cannot be read, and why. Nothing of theirs is touched.
	broken map[string]error
	// collecting holds the ids whose remains are being removed, each with a channel that is closed afterwards.
	collecting map[string]chan struct{}
	// lent holds the phones whose data is being read, with a token for each reader that says for whom.
	lent     map[string]map[*loan]struct{}
	boots    bootQueue
	watchers map[*Watcher]struct{}
	revision uint64
	// lost is whether containerd does not answer.
	lost bool
	// running is whether controllers have been started and not yet stopped.
	running bool
}

// New reads the records. Start begins to act on them.
func New(cfg Config) (*Supervisor, error) {
	v := reflect.ValueOf(cfg)
	for _, name := range []string{"DB", "Operations", "Journal", "Runtime", "Networks", "Displays", "Images", "Logger"} {
		if v.FieldByName(name).IsNil() {
			return nil, fmt.Errorf("start supervisor: %s is required: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	if cfg.OnContainerd == nil {
		cfg.OnContainerd = func(bool) {}
	}
	if cfg.OnAdmitted == nil {
		cfg.OnAdmitted = func(time.Duration) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Volumes == nil {
		cfg.Volumes = noVolumes{}
	}
	if cfg.Archives == nil {
		cfg.Archives = noArchives{}
	}
	if cfg.AppLists == nil {
		cfg.AppLists = noAppLists{}
	}
	cfg = cfg.withPoints()
	s := &Supervisor{
		cfg: cfg, timing: cfg.Timing.withDefaults(), began: time.Now(),
		phones: map[string]*controller{}, broken: map[string]error{}, collecting: map[string]chan struct{}{},
		lent: map[string]map[*loan]struct{}{}, watchers: map[*Watcher]struct{}{},
		boots: bootQueue{limit: orDefault(cfg.ConcurrentBoots, max(2, cfg.Host.CPUs)), admitted: cfg.OnAdmitted},
		// Revisions grow across restarts of the agent because time does.
		revision: uint64(time.Now().UnixMicro()),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.settleNetworks(); err != nil {
		return nil, fmt.Errorf("give phones their addresses: %w", err)
	}
	return s, s.load()
}

// load makes a controller for every record that can be read.
func (s *Supervisor) load() error {
	return s.cfg.DB.View(func(tx *store.Tx) error {
		for e := range records.All(tx) {
			if e.Err != nil {
				s.cfg.Logger.Error("record of phone not read; the phone is left as it is", "phone_id", e.Key, "error", e.Err)
				s.broken[e.Key] = e.Err
				continue
			}
			s.phones[e.Key] = s.newController(e.Key, e.Value)
		}
		return nil
	})
}

// newController makes the controller of a phone; it does not run yet.
func (s *Supervisor) newController(id string, r Record) *controller {
	c := &controller{
		s: s, id: id, logger: s.cfg.Logger.With("phone_id", id), rec: r,
		wake: make(chan struct{}, 1), adopted: make(chan struct{}), link: link{turn: make(chan struct{}, 1)},
	}
	c.snap = c.look()
	c.snap.Revision = s.nextRevision()
	return c
}

// Start runs the controllers and returns when each has looked at its phone once, or when ctx ends. What runs is taken over as it
// is. Start is called once.
func (s *Supervisor) Start(ctx context.Context) error {
	s.mu.Lock()
	s.running = true
	all := make([]*controller, 0, len(s.phones))
	for _, c := range s.phones {
		all = append(all, c)
		s.wg.Go(func() { c.run(s.ctx) })
	}
	s.mu.Unlock()
	s.wg.Go(func() { s.follow(s.cfg.Runtime.Events(s.ctx)) })
	if s.cfg.ClockSet != nil {
		s.wg.Go(func() {
			for range s.cfg.ClockSet(s.ctx) {
				s.judgeLeases()
			}
		})
	}
	for _, c := range all {
		select {
		case <-c.adopted:
		case <-ctx.Done():
			return fmt.Errorf("adopt phone %s: %w", c.id, ctx.Err())
		}
	}
	s.openBoots()
	s.wg.Go(s.collectLoop)
	return nil
}

// Close stops the controllers where they are and waits for them. Phones go on running; operations under way are taken up by the
// next agent. Requests that come later fail with ErrUnavailable.
func (s *Supervisor) Close() {
	s.mu.Lock()
	s.running = false
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
}

// follow hands the runtime's events to the controllers.
func (s *Supervisor) follow(events <-chan container.Event) {
	for e := range events {
		switch e.Kind {
		case container.Lost, container.Back:
			s.containerd(e.Kind == container.Lost)
		default:
			s.mu.Lock()
			if c := s.phones[e.PhoneID]; c != nil {
				c.handleEvent(e)
			}
			s.mu.Unlock()
		}
	}
}

// containerd takes the loss or the return of containerd: what was seen is no longer known, or is to be looked at again. A return
// without a loss is the beginning of the events, and no news.
func (s *Supervisor) containerd(lost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lost != s.lost {
		e := event.Event{Kind: event.ContainerdBack, Message: "containerd answers again"}
		if lost {
			e = event.Event{Kind: event.ContainerdLost, Message: "containerd does not answer"}
		}
		s.lost = lost
		s.cfg.Logger.Warn(e.Message)
		s.cfg.Journal.Emit(e)
		s.cfg.OnContainerd(lost)
	}
	for _, c := range s.phones {
		if lost {
			c.sight.known = false
			s.publishLocked(c)
		}
		c.poke()
	}
}

// sightOf returns what a controller saw last.
func (s *Supervisor) sightOf(c *controller) sight {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.sight
}

// saw keeps what a controller has just seen, and returns its record and whether a request has changed it since it last looked.
func (s *Supervisor) saw(c *controller, saw sight) (r Record, requested bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.sight = saw
	requested, c.requested = c.requested, false
	if g := saw.obs.Guest; saw.known && saw.guestUp() {
		c.kills.watch(g.OOMKills, time.Now())
	}
	s.boots.settle(c, saw, time.Now(), s.timing)
	return c.rec.clone(), requested
}

// slotOf returns a phone's part in the admission of boots.
func (s *Supervisor) slotOf(c *controller) slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.slot
}

// openBoots begins to give boot slots: by now it is known which phones boot already.
func (s *Supervisor) openBoots() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boots.open = true
	s.boots.grant(time.Now())
}

// publish shows readers what a controller knows, and marks the phone as adopted.
func (s *Supervisor) publish(c *controller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publishLocked(c)
	select {
	case <-c.adopted:
	default:
		close(c.adopted)
	}
}

// publishLocked makes a new snapshot if anything has changed. s.mu is held.
func (s *Supervisor) publishLocked(c *controller) {
	if s.phones[c.id] != c {
		return
	}
	snap := c.look()
	snap.Revision, snap.queued = c.snap.Revision, c.slot == slotQueued
	if reflect.DeepEqual(snap, c.snap) {
		return
	}
	before := c.snap
	c.snap = snap
	c.snap.Revision = s.nextRevision()
	s.tell(c.id)
	first := false
	select {
	case <-c.adopted:
	default:
		first = true
	}
	if before.Status != snap.Status && !first {
		s.cfg.Journal.Emit(event.Event{
			Kind: event.PhoneStatus, PhoneID: c.id, OperationID: c.rec.operationID(),
			Message:    fmt.Sprintf("%s is %s", c.id, snap.Status),
			Attributes: map[string]string{"from": before.Status.String(), "to": snap.Status.String(), "reason": snap.Reason},
		})
	}
}

// nextRevision returns a revision that has not been used. s.mu is held, or s is not shared yet.
func (s *Supervisor) nextRevision() uint64 {
	s.revision++
	return s.revision
}

// change applies fn to a phone's record in one transaction. Memory follows in its commit hook, which comes before those of fn: who
// is told that an operation has ended finds the phone as the operation left it. fn may run more than once.
func (s *Supervisor) change(id string, fn func(*store.Tx, *Record) error) error {
	return s.cfg.DB.Update(func(tx *store.Tx) error {
		r, err := records.Get(tx, []byte(id))
		if err != nil {
			return err
		}
		tx.OnCommit(func() { s.committed(id, r, false) })
		if err := fn(tx, &r); err != nil {
			return err
		}
		return records.Put(tx, []byte(id), r)
	})
}

// committed is the commit hook of every change of a record: memory follows disk. If a request made the change, of what should be now,
// the controller drops what it is doing.
func (s *Supervisor) committed(id string, r Record, interrupt bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.phones[id]
	if c == nil {
		return
	}
	c.rec = r
	s.publishLocked(c)
	if interrupt {
		c.requested = true
		if c.interrupt != nil {
			c.interrupt()
		}
	}
	c.poke()
}

// remove takes a phone off the records, and ends its operation.
func (s *Supervisor) remove(id string) error {
	return s.cfg.DB.Update(func(tx *store.Tx) error {
		r, err := records.Get(tx, []byte(id))
		if err != nil {
			return err
		}
		tx.OnCommit(func() { s.removed(id) })
		if err := s.finishTask(tx, &r); err != nil {
			return err
		}
		if err := tx.Bucket(store.Slots).Delete(store.Key32(r.Slot)); err != nil {
			return fmt.Errorf("free slot of %s: %w", id, err)
		}
		if err := freeAddresses(tx, &r); err != nil {
			return err
		}
		err = s.cfg.Journal.Append(tx, event.Event{Kind: event.PhoneDeleted, PhoneID: id, Message: "the phone was deleted"})
		if err != nil {
			return err
		}
		return records.Delete(tx, []byte(id))
	})
}

// removed is the commit hook of remove.
func (s *Supervisor) removed(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.phones[id]; c != nil {
		s.boots.leave(c, time.Now())
	}
	delete(s.phones, id)
	s.nextRevision()
	s.tell(id)
}
