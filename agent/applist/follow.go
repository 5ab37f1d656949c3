package applist

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/netpolicy/packages"
)

// retryTimes are the least and the most time between two tries to bring about what could not be.
var retryTimes = [2]time.Duration{time.Second, time.Minute}

// follower follows one phone. Its goroutine owns it.
type follower struct {
	m *Manager
	w *ward
	// guest is the run of the guest whose packages are followed, and end ends that; both are zero while none is.
	guest   guest
	updates <-chan packages.Update
	end     context.CancelFunc
	// seen is what was last looked at, and due whether it has to be once more, though it is the same.
	seen sight
	due  bool
	// again has it looked at once more after a failure, and pause is how long the next one waits.
	again *time.Timer
	pause time.Duration
	// read is whether the table that is known was read in this run of the guest, and is its table still, as far as is known.
	read bool
	// told are the packages that the guest was told to suspend in this run.
	told map[string]bool
}

// guest names a run of a guest, as phone.Snapshot.SameRun does.
type guest struct {
	pid  uint32
	boot uint64
}

// sight is what rules depend on, beside the phone's table.
type sight struct {
	guest      guest
	list       string
	change     uint64 // of the list
	generation uint64
	image      string
	booted     bool
	epoch      uint64
	// known counts the changes of what is known of the image.
	known uint64
}

// follow follows a phone until the context ends or the phone is gone.
func (m *Manager) follow(ctx context.Context, w *ward) {
	f := &follower{m: m, w: w, end: func() {}, again: time.NewTimer(0), pause: retryTimes[0], due: true}
	defer func() { f.end(); f.again.Stop() }()
	for !f.look(ctx) {
		select {
		case <-w.wake:
		case <-f.again.C:
			f.due = true
		case u, more := <-f.updates:
			if more {
				f.learn(ctx, u)
			} else {
				f.stop()
			}
		case <-ctx.Done():
			return
		}
	}
}

// look brings about what is stored, if anything that it depends on has changed, or it has to be tried again.
func (f *follower) look(ctx context.Context) (gone bool) {
	snap, err := f.m.phones.Get(f.w.id)
	if errdefs.IsNotFound(err) || err == nil && snap.Record.Deleting {
		return true
	}
	if err == nil {
		err = f.begin(ctx, snap)
	}
	now := f.sight(snap)
	if err == nil && now == f.seen && !f.due {
		return false
	}
	f.seen, f.due = now, false
	if err == nil {
		err = f.apply(ctx, snap, now.booted)
	}
	if err == nil {
		err = f.tell(ctx, snap)
	}
	if err == nil {
		f.again.Stop()
		f.pause = retryTimes[0]
		return false
	}
	f.again.Reset(f.pause)
	f.pause = min(2*f.pause, retryTimes[1])
	f.m.cfg.Logger.Debug("app list of a phone not applied or not told; it is tried again", "phone_id", f.w.id, "error", err)
	return false
}

// sight returns what the phone's rules depend on now.
func (f *follower) sight(snap phone.Snapshot) sight {
	s := sight{
		guest: f.guest, list: snap.Record.Spec.AppList, generation: snap.Record.DataGeneration, image: snap.Record.ImageDigest,
		booted: snap.Status == phone.Running,
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if k := f.m.lists[s.list]; k != nil {
		s.change = k.Generation
	}
	s.epoch, s.known = f.m.epoch, f.w.imageChanges
	return s
}

// apply applies the list, and finds out whether the table is complete by now.
func (f *follower) apply(ctx context.Context, snap phone.Snapshot, booted bool) error {
	done, err := take(ctx, f.w.turn)
	if err != nil {
		return err
	}
	defer done()
	if f.w.gone {
		return nil
	}
	a := f.m.known(f.w, &snap.Record)
	if booted && f.read && !a.complete {
		a.complete = true
		if err := f.m.keep(f.w, a); err != nil {
			return err
		}
	}
	return f.m.applyNow(ctx, f.w)
}

// begin follows the packages of the guest that runs, where the phone is on a list or the guest has been told something of one.
func (f *follower) begin(ctx context.Context, snap phone.Snapshot) error {
	if snap.Status == phone.Unknown {
		return nil // whatever runs goes on
	}
	now := guest{snap.InitPID, snap.Boot}
	f.m.mu.Lock()
	due := snap.InitPID != 0 && (snap.Record.Spec.AppList != "" || len(f.w.apps.suspended) > 0)
	f.m.mu.Unlock()
	if now == f.guest && due {
		return nil
	}
	f.stop()
	if !due {
		return nil
	}
	root, err := f.m.cfg.Guests.Root(ctx, f.w.id)
	if errdefs.IsFailedPrecondition(err) {
		return nil // it has just ended; that is told
	}
	if err != nil {
		return err
	}
	following, end := context.WithCancel(ctx)
	f.guest, f.end, f.updates = now, end, f.m.cfg.Packages.Follow(following, root)
	return nil
}

// stop ends the following of a guest.
func (f *follower) stop() {
	f.end()
	f.guest, f.end, f.updates, f.read, f.told = guest{}, func() {}, nil, false, nil
}

// learn takes in what is known of the guest's packages.
func (f *follower) learn(ctx context.Context, u packages.Update) {
	f.read = u.Table != nil && u.Err == nil
	f.due = true
	if u.Err != nil {
		f.m.cfg.Logger.Debug("packages of a phone not read", "phone_id", f.w.id, "error", fault.Readable(u.Err.Error()))
	}
	if u.Table != nil {
		f.m.learn(ctx, f.w, func(_ phone.Snapshot, a apps) apps { a.table = u.Table; return a })
	}
}

// learn takes in what is new of a phone's apps, which update adds to what is known.
func (m *Manager) learn(ctx context.Context, w *ward, update func(phone.Snapshot, apps) apps) {
	done, err := take(ctx, w.turn)
	if err != nil {
		return
	}
	defer done()
	snap, err := m.phones.Get(w.id)
	if w.gone || err != nil {
		return
	}
	a := update(snap, m.known(w, &snap.Record))
	if err := m.keep(w, a); err != nil {
		m.cfg.Logger.Warn("table of a phone's packages not stored", "phone_id", w.id, "error", err)
		m.mu.Lock()
		w.apps = a // in force all the same
		m.mu.Unlock()
	}
}
