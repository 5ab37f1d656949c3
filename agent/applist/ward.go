package applist

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/netpolicy/applist"
)

// State is what became of the list that a phone is on.
type State struct {
	// InForce is whether the kernel has what the list says of this phone now.
	InForce bool
	// Complete is whether apps that the phone's table does not have are told from those of the image.
	Complete bool
	// DeniedApps is how many apps of its table may not run.
	DeniedApps int
	// Problem is why it is not, or not wholly, in force.
	Problem string
}

// ward is a phone that is or was on a list.
type ward struct {
	id string
	// turn has room for whoever sets its rules.
	turn chan struct{}
	// wake has something for the follower to look at.
	wake chan struct{}

	// Owned by whoever has the turn:

	// killed is what the processes that run were last judged by; nil when that is not known.
	killed *Rules
	// gone is whether the phone was removed.
	gone bool

	// Guarded by Manager.mu:

	apps  apps
	state State
	// deny are the packages that the phone has and may not run.
	deny     map[string]bool
	followed bool
	// imageChanges counts the changes of what is known of its image.
	imageChanges uint64
}

func newWard(id string) *ward {
	return &ward{id: id, turn: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
}

// ward returns what is known of a phone.
func (m *Manager) ward(id string) *ward {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.wards[id]
	if w == nil {
		w = newWard(id)
		m.wards[id] = w
	}
	return w
}

// wanted returns what is known of a phone that is or was on a list; nil for one that never was, and for one that goes.
func (m *Manager) wanted(snap phone.Snapshot) *ward {
	id := snap.Record.Spec.ID
	if snap.Record.Deleting {
		return nil
	}
	if snap.Record.Spec.AppList != "" {
		return m.ward(id)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wards[id]
}

// State returns what became of the list that a phone is on; false where it is on none.
func (m *Manager) State(snap phone.Snapshot) (State, bool) {
	if snap.Record.Spec.AppList == "" {
		return State{}, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.wards[snap.Record.Spec.ID]; w != nil {
		return w.state, true
	}
	return State{}, true
}

// known returns what is known of a phone's apps, as its record is now.
func (m *Manager) known(w *ward, r *phone.Record) apps {
	m.mu.Lock()
	defer m.mu.Unlock()
	return w.apps.fits(r)
}

// apply makes a phone's rules what its record, its list and its apps say now, for who has changed one of them. All that is stored: where this fails,
// the phone's follower tries again.
func (m *Manager) apply(ctx context.Context, w *ward) error {
	defer m.signal(w.wake)
	done, err := take(ctx, w.turn)
	if err != nil {
		return err
	}
	defer done()
	return m.applyNow(ctx, w)
}

// applyNow is apply for who has the turn.
func (m *Manager) applyNow(ctx context.Context, w *ward) error {
	if w.gone {
		return nil
	}
	snap, err := m.phones.Get(w.id)
	if errdefs.IsNotFound(err) || err == nil && snap.Record.Deleting {
		return nil
	}
	var state State
	if err == nil {
		state, err = m.enforce(ctx, w, snap)
	}
	if err != nil {
		state.InForce, state.Problem = false, fault.Readable(fault.Words(err))
	}
	m.settle(w, state, err)
	return err
}

// failedOn is the error of what is stored and not in force on a phone.
func failedOn(id string, err error) error {
	if err == nil || fault.Reason(err) != "" {
		return err
	}
	return fault.New(errdefs.ErrUnavailable, Failed, "the app list of %s: stored, and tried again since it could not be put in force yet: %s", id, fault.Readable(fault.Words(err)))
}

// settle keeps how it went.
func (m *Manager) settle(w *ward, state State, err error) {
	m.mu.Lock()
	before := w.state
	w.state = state
	m.mu.Unlock()
	if err != nil && !errors.Is(err, context.Canceled) {
		level := slog.LevelWarn
		if before.Problem == state.Problem {
			level = slog.LevelDebug // it goes on
		}
		m.cfg.Logger.Log(context.Background(), level, "app list is not in force on a phone as it is stored; it is tried again", "phone_id", w.id, "error", err)
	}
	if before != state {
		m.phones.Refresh(w.id)
	}
}

// enforce brings about what is stored. The turn is taken.
func (m *Manager) enforce(ctx context.Context, w *ward, snap phone.Snapshot) (State, error) {
	a := m.known(w, &snap.Record)
	if err := m.keep(w, a); err != nil {
		return State{}, err
	}
	list, listErr := m.listOf(snap)
	cgroup, err := m.cfg.Guests.Cgroup(w.id)
	switch {
	case errdefs.IsNotFound(err):
		return State{}, listErr // it gets its rules at its first start
	case errdefs.IsNotImplemented(err):
		return m.refuse(list, err)
	case err != nil:
		return State{}, err
	case listErr != nil:
		return State{}, listErr // what the kernel has stays
	case list == nil || !list.Enabled:
		return m.release(w, snap, list, a, cgroup)
	}
	return m.set(ctx, w, snap, *list, a, cgroup)
}

// release has the kernel let go of a phone. What it has refused is read before, while it is known whose apps that were; the table of a phone that is on no
// list is forgotten, for nobody follows it from here on.
func (m *Manager) release(w *ward, snap phone.Snapshot, list *applist.List, a apps, cgroup Cgroup) (State, error) {
	w.killed = nil
	m.denies(w, nil)
	m.drain(snap.Record.Slot, w.id)
	if err := m.cfg.Enforcer.RemovePhone(cgroup.ID); err != nil {
		return State{}, err
	}
	if list == nil {
		a.table, a.complete = nil, false
	}
	return State{InForce: true, Complete: a.complete}, m.keep(w, a)
}

// refuse is for hosts whose kernel cannot know phones.
func (m *Manager) refuse(list *applist.List, err error) (State, error) {
	if list == nil || !list.Enabled {
		return State{InForce: true}, nil
	}
	return State{Problem: fault.Readable(fault.Words(err))}, m.checkStrict(*list)
}

// set has the kernel judge a phone by a list, and ends what runs and may not any more.
func (m *Manager) set(ctx context.Context, w *ward, snap phone.Snapshot, list applist.List, a apps, cgroup Cgroup) (State, error) {
	v := m.judge(list, snap.Record.Slot, a)
	deny := v.rules.denied(a)
	m.denies(w, deny)
	state := State{InForce: true, Complete: a.complete && v.blind == "", DeniedApps: len(deny)}
	state.Problem = joined(joined(v.unread, v.blind), m.cfg.Enforcer.Status().gap())
	if snap.Outside {
		state.InForce, state.Problem = false, "the guest runs below another cgroup root than the agent's, where nothing is refused until the phone is restarted"
	}
	err := m.cfg.Enforcer.SetPhone(cgroup.ID, v.rules)
	if errdefs.IsNotImplemented(err) {
		state.InForce = false
		return state, m.checkStrict(list)
	}
	if err == nil {
		err = m.stop(ctx, w, snap, a, v.rules, cgroup)
	}
	if err == nil {
		err = m.checkStrict(list)
	}
	return state, err
}

// denies keeps which packages a phone has and may not run.
func (m *Manager) denies(w *ward, names map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w.deny = names
}

// joined joins two texts of which each may be empty.
func joined(a, b string) string {
	if a != "" && b != "" {
		return a + "; " + b
	}
	return a + b
}

// killTime bounds how long apps are ended.
const killTime = 20 * time.Second

// stop ends the processes of a phone that run and may not any more. What ran under the same rules before is not looked at again.
func (m *Manager) stop(ctx context.Context, w *ward, snap phone.Snapshot, a apps, r Rules, cgroup Cgroup) error {
	if snap.InitPID == 0 && snap.Status != phone.Unknown {
		w.killed = nil
		return nil
	}
	if w.killed != nil && w.killed.same(r) {
		return nil
	}
	w.killed = nil
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	began := m.cfg.Now()
	ended := map[uint32]bool{}
	killed, err := m.cfg.Enforcer.Kill(ctx, cgroup.Dir, func(app uint32) bool {
		if r.doomed(app) {
			ended[app] = true
		}
		return ended[app]
	})
	if killed > 0 {
		m.report([]Denial{{
			Phone: w.id, Kind: Stopped, Packages: a.packagesOf(ended), Count: uint64(killed), First: began, Last: m.cfg.Now(), AppList: snap.Record.Spec.AppList,
		}})
	}
	if err == nil {
		w.killed = &r
	}
	return err
}

// readyTime bounds how long the start of a phone waits until its image has been read.
const readyTime = 30 * time.Second

// awaitImage waits, for a phone on a list that allows, until it is known which packages came with its image. That it is not known is told by the
// phone's State; the error is the context's.
func (m *Manager) awaitImage(ctx context.Context, snap phone.Snapshot) error {
	list, err := m.listOf(snap)
	if err != nil || list == nil || !list.Enabled || list.Mode != applist.Allow {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	if err := m.cfg.Images.Await(waiting, snap.Record.ImageDigest); err != nil && ctx.Err() == nil {
		m.cfg.Logger.Warn("a phone on a list that allows is started before the packages of its image are known", "phone_id", snap.Record.Spec.ID, "error", err)
	}
	return ctx.Err()
}

// Ready implements phone.AppLists: it sets the rules of a phone whose guest is about to be started.
func (m *Manager) Ready(ctx context.Context, id string) error {
	snap, err := m.phones.Get(id)
	if err != nil {
		return err
	}
	w := m.wanted(snap)
	if w == nil {
		return nil
	}
	if err := m.awaitImage(ctx, snap); err != nil {
		return err
	}
	return m.apply(ctx, w)
}

// Forget implements phone.AppLists: it takes away the rules of a phone that is being removed, and what is known of it.
func (m *Manager) Forget(ctx context.Context, id string) error {
	snap, err := m.phones.Get(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	w := m.wards[id]
	m.mu.Unlock()
	if w == nil {
		return nil
	}
	done, err := take(ctx, w.turn)
	if err != nil {
		return err
	}
	defer done()
	for cgroup, slot := range m.cfg.Enforcer.Phones() {
		if slot != snap.Record.Slot {
			continue
		}
		m.drain(slot, id)
		if err := m.cfg.Enforcer.RemovePhone(cgroup); err != nil {
			return err
		}
	}
	if err := m.cfg.DB.Update(func(tx *store.Tx) error { return appsTable.Delete(tx, []byte(id)) }); err != nil {
		return err
	}
	w.gone = true
	m.mu.Lock()
	delete(m.wards, id)
	m.mu.Unlock()
	m.signal(w.wake)
	return nil
}
