package applist

import (
	"context"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/netpolicy/packages"
)

// Assign puts phones on a list, and returns an error for each, in their order, and what to know of it. Errors of a phone: those of
// phone.Supervisor.SetAppLists; faults with reason SHARED_UID, after which nothing has changed, and APP_LIST_FAILED. Errors of the call, after which
// nothing has changed: faults with reason INVALID_FIELD, NO_SUCH_APP_LIST, STRICT_NOT_KEPT.
func (m *Manager) Assign(ctx context.Context, name string, ids []string, move, force bool, by string) ([]error, []string, error) {
	if strings.TrimSpace(name) == "" {
		return nil, nil, fault.Field("app_list", "is missing")
	}
	done, err := m.takeTurn(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	l, _, err := m.Get(name)
	if err != nil {
		return nil, nil, err
	}
	glances := m.peek(ctx, ids[:min(len(ids), phone.MaxPhones)])
	notes := remarks{own: l.Remarks()}
	errs, asked := make([]error, len(ids)), []string{}
	for i, id := range ids {
		apps, err := m.acceptOn(l.List, id, glances[id].table, force)
		if errs[i] = err; err == nil {
			asked = append(asked, id)
			notes.add(id, apps.Warnings)
		}
	}
	if len(asked) == 0 && len(ids) > 0 {
		return errs, nil, nil
	}
	set, err := m.setLists(ctx, asked, name, move, by, glances)
	if err != nil {
		return nil, nil, err
	}
	for i, id := range ids {
		if errs[i] == nil {
			errs[i] = set[id]
		}
	}
	return errs, notes.all(), nil
}

// Unassign takes phones off their lists. The errors are those of Assign.
func (m *Manager) Unassign(ctx context.Context, ids []string, by string) ([]error, error) {
	set, err := m.setLists(ctx, ids, "", true, by, nil)
	if err != nil {
		return nil, err
	}
	errs := make([]error, len(ids))
	for i, id := range ids {
		errs[i] = set[id]
	}
	return errs, nil
}

// setLists stores which list phones are on, and has them get what it says, by what was peeked at. The errors are by phone.
func (m *Manager) setLists(ctx context.Context, ids []string, name string, move bool, by string, glances map[string]glance) (map[string]error, error) {
	refused, err := m.phones.SetAppLists(ids, name, move, by)
	if err != nil {
		return nil, err
	}
	set, done := make(map[string]error, len(ids)), []string{}
	for i, id := range ids {
		if set[id] = refused[i]; refused[i] != nil {
			continue
		}
		done = append(done, id)
		if g := glances[id]; g.table != nil {
			m.learnGlance(ctx, m.ward(id), g)
		}
	}
	for i, err := range m.applyEach(ctx, done) {
		set[done[i]] = err
	}
	return set, ctx.Err()
}

// glance is what was read of a phone that is to be put on its first list.
type glance struct {
	snap  phone.Snapshot // before it was read
	table *packages.Table
}

// of reports whether a phone's guest is the one that was read, with the same data.
func (g glance) of(now phone.Snapshot) bool {
	was := g.snap
	return now.InitPID == was.InitPID && now.Record.CreateTime.Equal(was.Record.CreateTime) &&
		now.Record.DataGeneration == was.Record.DataGeneration && now.Record.ImageDigest == was.Record.ImageDigest
}

// learnGlance takes in what was peeked at, unless the phone's follower was quicker, and has something newer.
func (m *Manager) learnGlance(ctx context.Context, w *ward, g glance) {
	m.learn(ctx, w, func(snap phone.Snapshot, a apps) apps {
		if a.table == nil && g.of(snap) {
			a.table, a.complete = g.table, g.snap.Status == phone.Running
		}
		return a
	})
}

// peekTime bounds how long the table of a phone is waited for that is to be put on its first list.
const peekTime = 2 * time.Second

// peek reads the tables of those phones that run and are on no list, so that nobody follows them: what a list would do to them is told before they
// are put on it. One that cannot be read in time is read by the phone's follower.
func (m *Manager) peek(ctx context.Context, ids []string) map[string]glance {
	ctx, cancel := context.WithTimeout(ctx, peekTime)
	defer cancel()
	var mu sync.Mutex
	glances := map[string]glance{}
	var reading errgroup.Group
	reading.SetLimit(atOnce)
	for _, id := range ids {
		snap, err := m.phones.Get(id)
		if err != nil || snap.InitPID == 0 || snap.Record.Spec.AppList != "" {
			continue
		}
		reading.Go(func() error {
			root, err := m.cfg.Guests.Root(ctx, id)
			if err != nil {
				return nil
			}
			following, end := context.WithCancel(ctx)
			defer end()
			u := <-m.cfg.Packages.Follow(following, root)
			mu.Lock()
			defer mu.Unlock()
			glances[id] = glance{snap, u.Table}
			return nil
		})
	}
	_ = reading.Wait() // none of them returns an error
	return glances
}
