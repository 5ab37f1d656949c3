package applist

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/netpolicy/applist"
	"github.com/phonehost/phonehost/netpolicy/packages"
)

const (
	// MaxLists is how many lists the host keeps.
	MaxLists = 1000
	// MaxBatch is how many lists one call deletes at most.
	MaxBatch = 100
	// atOnce is how many phones get a list at the same time. Most of what each needs is to wait for grace periods of the kernel, which those that wait
	// together share; each holds a thread meanwhile.
	atOnce = 128
)

// List is a list as it is kept.
type List struct {
	applist.List
	// Generation grows with every change, from 1.
	Generation uint64
	// UpdateTime is when it was changed last, and UpdatedBy the identity that did.
	UpdateTime time.Time
	UpdatedBy  string
	// Problem is why it is not in force; empty where all is well.
	Problem string
}

// stored is a list in the database.
type stored struct {
	Mode        string    `json:"mode"`
	Description string    `json:"description,omitempty"`
	Packages    []string  `json:"packages"`
	Enabled     bool      `json:"enabled"`
	Strict      bool      `json:"strict,omitempty"`
	Isolated    bool      `json:"deny_isolated,omitempty"`
	Generation  uint64    `json:"generation"`
	UpdateTime  time.Time `json:"update_time"`
	UpdatedBy   string    `json:"updated_by"`
}

// table is the bucket of the lists.
var table = store.Table[stored]{Bucket: store.AppLists, What: "app list"}

// known is what the Manager keeps in memory of a list that is stored. Values are not changed once they are made.
type known struct {
	List
	// err is why it cannot be read.
	err error
}

// list reads it.
func (s stored) list(name string) (List, error) {
	mode, err := applist.ParseMode(s.Mode)
	l := List{
		List: applist.List{
			Name: name, Mode: mode, Description: s.Description, Packages: s.Packages, Enabled: s.Enabled, Strict: s.Strict, DenyIsolated: s.Isolated,
		},
		Generation: s.Generation, UpdateTime: s.UpdateTime, UpdatedBy: s.UpdatedBy,
	}
	return l, errors.Join(err, l.Validate())
}

// stored returns a list as the database has it.
func (l List) stored() stored {
	return stored{
		Mode: l.Mode.String(), Description: l.Description, Packages: l.Packages, Enabled: l.Enabled, Strict: l.Strict, Isolated: l.DenyIsolated,
		Generation: l.Generation, UpdateTime: l.UpdateTime, UpdatedBy: l.UpdatedBy,
	}
}

// loadLists reads the lists of the database. One that this release cannot read is told and left.
func (m *Manager) loadLists(tx *store.Tx) {
	for e := range table.All(tx) {
		l, err := e.Value.list(e.Key)
		if err = errors.Join(e.Err, err); err != nil {
			l = List{List: applist.List{Name: e.Key}}
			m.cfg.Logger.Error("app list not read; its phones keep the rules that they have", "app_list", e.Key, "error", err)
		}
		m.lists[e.Key] = &known{List: l, err: err}
	}
}

// listOf returns the list that a phone is on; nil where it is on none.
func (m *Manager) listOf(snap phone.Snapshot) (*applist.List, error) {
	name := snap.Record.Spec.AppList
	if name == "" {
		return nil, nil
	}
	m.mu.Lock()
	k := m.lists[name]
	m.mu.Unlock()
	if k == nil {
		return nil, phone.NoSuchAppList(name)
	}
	if k.err != nil {
		return nil, fmt.Errorf("app list %q cannot be read, and what was in force stays: %w", name, k.err)
	}
	return &k.List.List, nil
}

// users names the phones that are on a list, in order.
func (m *Manager) users(name string) []string {
	var ids []string
	for _, snap := range m.phones.List() {
		if snap.Record.Spec.AppList == name && !snap.Record.Deleting {
			ids = append(ids, snap.Record.Spec.ID)
		}
	}
	return ids
}

// Users counts the phones of each list.
func (m *Manager) Users() map[string]int {
	users := map[string]int{}
	for _, snap := range m.phones.List() {
		if name := snap.Record.Spec.AppList; name != "" {
			users[name]++
		}
	}
	return users
}

// List returns all lists in the order of their names.
func (m *Manager) List() []List {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]List, 0, len(m.lists))
	for _, name := range slices.Sorted(maps.Keys(m.lists)) {
		all = append(all, m.shown(m.lists[name]))
	}
	return all
}

// shown is a list with its problem. m.mu is held.
func (m *Manager) shown(k *known) List {
	l := k.List
	err := k.err
	if err == nil {
		err = m.checkStrict(l.List)
	}
	if err != nil {
		l.Problem = fault.Readable(fault.Words(err))
	}
	return l
}

// Get returns a list and the phones that are on it; a fault with reason NO_SUCH_APP_LIST if there is none.
func (m *Manager) Get(name string) (List, []string, error) {
	m.mu.Lock()
	k := m.lists[name]
	if k == nil {
		m.mu.Unlock()
		return List{}, nil, phone.NoSuchAppList(name)
	}
	l := m.shown(k)
	m.mu.Unlock()
	return l, m.users(name), nil
}

// Status tells what the host's kernel refuses.
func (m *Manager) Status() Status { return m.cfg.Enforcer.Status() }

// CheckAssign refuses, within a transaction, a list that phones cannot be put on: faults with reason NO_SUCH_APP_LIST, STRICT_NOT_KEPT. It is
// phone.Config's CheckAppList.
func (m *Manager) CheckAssign(tx *store.Tx, name string) error {
	s, err := table.Get(tx, []byte(name))
	if errdefs.IsNotFound(err) {
		return phone.NoSuchAppList(name)
	}
	if err != nil {
		return err
	}
	l, err := s.list(name)
	if err != nil {
		return err
	}
	return m.checkStrict(l.List)
}

// Edit is how a list is to change.
type Edit struct {
	// Put replaces all that a list says, and makes the list if it is not there; its Enabled does not count. nil leaves them.
	Put *applist.List
	// Add and Remove are entries that it gets and loses.
	Add, Remove []string
	// Enabled is whether it is in force; nil leaves it, and enables a new list.
	Enabled *bool
	// Force accepts that apps are denied which the list does not mean to.
	Force bool
}

// Change makes or changes a list, for all its phones, and returns it with what to know of it. It is stored before the phones have it, and the
// call waits for those. Errors: faults with reason INVALID_FIELD, NO_SUCH_APP_LIST, TOO_MANY_APP_LISTS, STRICT_NOT_KEPT, SHARED_UID, after
// which nothing has changed; APP_LIST_FAILED for one that is stored and not in force on a phone yet.
func (m *Manager) Change(ctx context.Context, name string, e Edit, by string) (List, []string, error) {
	if err := e.check(name); err != nil {
		return List{}, nil, err
	}
	done, err := m.takeTurn(ctx)
	if err != nil {
		return List{}, nil, err
	}
	defer done()
	m.mu.Lock()
	have := m.lists[name]
	m.mu.Unlock()
	l, lost, err := e.apply(name, have)
	if err != nil {
		return List{}, nil, err
	}
	notes, err := m.accept(l.List, e.Force)
	if err != nil {
		return List{}, nil, err
	}
	for _, entry := range lost {
		notes.own = append(notes.own, entry+" was not in the list")
	}
	if have == nil || have.err != nil || !same(have.List, l) {
		if l, err = m.store(l, have, by); err != nil {
			return List{}, nil, err
		}
	}
	return l, notes.all(), m.applyAll(ctx, m.users(name))
}

// same reports whether two lists say the same.
func same(a, b List) bool {
	return a.Mode == b.Mode && a.Description == b.Description && slices.Equal(a.Packages, b.Packages) && a.Enabled == b.Enabled && a.Strict == b.Strict && a.DenyIsolated == b.DenyIsolated
}

// check refuses what can be no list's, naming the field of the request.
func (e Edit) check(name string) error {
	l := applist.List{Mode: applist.Deny}
	try := func(field string, set func(*applist.List)) error {
		l := applist.List{Name: "x", Mode: applist.Deny}
		set(&l)
		if err := l.Validate(); err != nil {
			return fault.Field(field, "%s", fault.Readable(fault.Words(err)))
		}
		return nil
	}
	if e.Put != nil {
		l = *e.Put
	}
	for _, err := range []error{
		try("name", func(t *applist.List) { t.Name = name }),
		try("mode", func(t *applist.List) { t.Mode = l.Mode }),
		try("description", func(t *applist.List) { t.Description = l.Description }),
		try("packages", func(t *applist.List) { t.Packages = l.Packages }),
		try("add_packages", func(t *applist.List) { t.Packages = e.Add }),
		try("remove_packages", func(t *applist.List) { t.Packages = e.Remove }),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// apply returns the changed list, and what should have been removed and was not there.
func (e Edit) apply(name string, have *known) (l List, lost []string, err error) {
	switch {
	case have == nil && e.Put == nil:
		return l, nil, phone.NoSuchAppList(name)
	case have != nil && have.err != nil && e.Put == nil:
		return l, nil, fmt.Errorf("app list %q cannot be read; put it anew: %w", name, have.err)
	case have != nil:
		l = have.List
	default:
		l.Enabled = true
	}
	if e.Put != nil {
		enabled := l.Enabled || have != nil && have.err != nil
		l.List = *e.Put
		l.Name, l.Enabled, l.Packages = name, enabled, slices.Clone(e.Put.Packages)
	}
	if e.Enabled != nil {
		l.Enabled = *e.Enabled
	}
	l.Packages = slices.Clone(l.Packages)
	for _, entry := range e.Remove {
		i := slices.Index(l.Packages, entry)
		if i < 0 {
			lost = append(lost, entry)
			continue
		}
		l.Packages = slices.Delete(l.Packages, i, i+1)
	}
	for _, entry := range e.Add {
		if !slices.Contains(l.Packages, entry) {
			l.Packages = append(l.Packages, entry)
		}
	}
	if err := l.Validate(); err != nil {
		return l, nil, fault.Field("add_packages", "%s", fault.Readable(fault.Words(err)))
	}
	return l, lost, nil
}

// accept refuses a list that cannot be kept, or that would deny what it does not mean to on one of its phones, and returns what to know of it.
func (m *Manager) accept(l applist.List, force bool) (remarks, error) {
	notes := remarks{own: l.Remarks()}
	if gap := m.cfg.Enforcer.Status().gap(); gap != "" && l.Enabled {
		notes.own = append(notes.own, gap)
	}
	if err := m.checkStrict(l); err != nil {
		return notes, err
	}
	for _, id := range m.users(l.Name) {
		apps, err := m.acceptOn(l, id, nil, force)
		if err != nil {
			return notes, err
		}
		notes.add(id, apps.Warnings)
	}
	return notes, nil
}

// acceptOn is accept for one phone that is to be on the list. peeked is its table where it was on none; nil for none that is known.
func (m *Manager) acceptOn(l applist.List, id string, peeked *packages.Table, force bool) (applist.Apps, error) {
	snap, err := m.phones.Get(id)
	if err != nil {
		return applist.Apps{}, nil // gone meanwhile, or refused by who assigns
	}
	m.mu.Lock()
	var a apps
	if w := m.wards[id]; w != nil {
		a = w.apps
	}
	m.mu.Unlock()
	a = a.fits(&snap.Record)
	if peeked != nil {
		a.table = peeked
	}
	v := m.judge(l, snap.Record.Slot, a)
	if force {
		return v.rules.Apps, nil
	}
	return v.rules.Apps, sharedErr(id, v.rules.Apps)
}

// store stores a list that has changed. The turn is taken.
func (m *Manager) store(l List, have *known, by string) (List, error) {
	what := "put"
	if have != nil && have.err == nil {
		l.Generation = have.Generation
		what = changeWord(have.List, l)
	}
	l.Generation++
	l.UpdateTime, l.UpdatedBy, l.Problem = m.cfg.Now(), by, ""
	err := m.cfg.DB.Update(func(tx *store.Tx) error {
		if have == nil && tx.Bucket(store.AppLists).Stats().KeyN >= MaxLists {
			return fault.New(errdefs.ErrResourceExhausted, TooMany, "this host has %d app lists: delete one that no phone is on", MaxLists)
		}
		tx.OnCommit(func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.lists[l.Name] = &known{List: l}
		})
		e := m.changed(l.Name, what, by)
		e.Attributes["mode"], e.Attributes["packages"] = l.Mode.String(), strconv.Itoa(len(l.Packages))
		e.Attributes["generation"] = strconv.FormatUint(l.Generation, 10)
		return errors.Join(m.cfg.Journal.Append(tx, e), table.Put(tx, []byte(l.Name), l.stored()))
	})
	return l, err
}

// changeWord says how a list has changed.
func changeWord(a, b List) string {
	word := map[bool]string{true: "enabled", false: "disabled"}[b.Enabled]
	if a.Enabled != b.Enabled {
		a.Enabled = b.Enabled
		if same(a, b) {
			return word
		}
	}
	return "changed"
}

// changed is the event of a list that was changed.
func (m *Manager) changed(name, change, by string) event.Event {
	return event.Event{
		Kind: event.AppListChanged, Message: fmt.Sprintf("app list %q was %s", name, change),
		Attributes: map[string]string{"app_list": name, "change": change, "requested_by": by},
	}
}

// applyAll has phones get what is stored, many at a time, and waits for that. The error is a fault with reason APP_LIST_FAILED that names the
// phones which have not got it, or that of the context.
func (m *Manager) applyAll(ctx context.Context, ids []string) error {
	errs := m.applyEach(ctx, ids)
	var failed []string
	var first error
	for i, err := range errs {
		if err != nil {
			failed = append(failed, ids[i])
			first = cmp.Or(first, err)
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case first == nil:
		return nil
	}
	return fault.New(errdefs.ErrUnavailable, Failed, "stored, and tried again since it could not be put in force yet on %s: %s", named(failed), fault.Words(first))
}

// applyEach is applyAll with an error for each phone, a fault with reason APP_LIST_FAILED or another.
func (m *Manager) applyEach(ctx context.Context, ids []string) []error {
	defer m.change()()
	errs := make([]error, len(ids))
	var acting errgroup.Group
	acting.SetLimit(atOnce)
	for i, id := range ids {
		acting.Go(func() error { errs[i] = failedOn(id, m.apply(ctx, m.ward(id))); return nil })
	}
	_ = acting.Wait() // none of them returns an error
	return errs
}

// change begins a change of many phones, which over ends.
func (m *Manager) change() (over func()) {
	m.mu.Lock()
	m.changes++
	m.mu.Unlock()
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.changes--; m.changes > 0 {
			return
		}
		for _, w := range m.wards {
			m.signal(w.wake)
		}
	}
}

// Delete deletes lists, and returns an error for each, in their order: faults with reason NO_SUCH_APP_LIST, APP_LIST_IN_USE, APP_LIST_FAILED. With
// force set their phones are on none afterwards. The other error is of the call: nothing has changed.
func (m *Manager) Delete(ctx context.Context, names []string, force bool, by string) ([]error, error) {
	if len(names) == 0 || len(names) > MaxBatch {
		return nil, fault.Field("names", "%d names must be 1..%d", len(names), MaxBatch)
	}
	done, err := m.takeTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	errs := make([]error, len(names))
	for i, name := range names {
		errs[i] = m.delete(ctx, name, force, by)
	}
	return errs, nil
}

// delete deletes one list. The turn is taken.
func (m *Manager) delete(ctx context.Context, name string, force bool, by string) error {
	var freed []string
	if force {
		for _, some := range chunks(m.users(name)) {
			if _, err := m.phones.SetAppLists(some, "", true, by); err != nil {
				return err
			}
			freed = append(freed, some...)
		}
	}
	err := m.cfg.DB.Update(func(tx *store.Tx) error {
		if tx.Bucket(store.AppLists).Get([]byte(name)) == nil {
			return phone.NoSuchAppList(name)
		}
		if users := phone.AppListUsers(tx, name); len(users) > 0 {
			return fault.New(errdefs.ErrFailedPrecondition, InUse, "app list %q has phones: %s: take them off it first", name, named(users))
		}
		tx.OnCommit(func() { m.mu.Lock(); defer m.mu.Unlock(); delete(m.lists, name) })
		return errors.Join(m.cfg.Journal.Append(tx, m.changed(name, "deleted", by)), table.Delete(tx, []byte(name)))
	})
	return cmp.Or(err, m.applyAll(ctx, freed))
}

// chunks cuts ids into what one call of the phones takes.
func chunks(ids []string) [][]string { return slices.Collect(slices.Chunk(ids, phone.MaxPhones)) }
