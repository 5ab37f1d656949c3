package applist

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/feed"
	"github.com/phonehost/phonehost/netpolicy/packages"
)

// Denial is refusals that are alike, or processes that were ended.
type Denial struct {
	// Phone is the phone's id.
	Phone string
	Kind  Kind
	// Packages are those that it concerns: none where the phone's table does not have the uid's app.
	Packages []string
	// UID is the app's, or the installer's; 0 where it was not kept.
	UID uint32
	// Count is how many.
	Count uint64
	// First and Last are when; when it was read, where that was not kept.
	First, Last time.Time
	// AppList is the list that the phone was on when it was read.
	AppList string
}

const (
	// drainPause is how often refusals are read at most, and drainAll how often they are looked for though nothing tells of any.
	drainPause = time.Second
	drainAll   = 30 * time.Second
)

// hear hears of refusals, until the context ends. Where that fails they are looked for in time.
func (m *Manager) hear(ctx context.Context) {
	for slot, err := range m.cfg.Enforcer.Events(ctx) {
		if err != nil {
			m.cfg.Logger.Warn("refusals of apps are not told by the kernel; they are looked for", "every", drainAll, "error", err)
			return
		}
		m.mu.Lock()
		m.dirty[slot] = true
		m.mu.Unlock()
		m.signal(m.drains)
	}
}

// readRefusals reads what was refused, until the context ends. What is left then waits in the kernel for the next agent.
func (m *Manager) readRefusals(ctx context.Context) {
	all := time.NewTicker(drainAll)
	defer all.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	status := m.cfg.Enforcer.Status()
	for {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		select {
		case <-m.drains:
		case <-all.C:
			m.markAll()
			if now := m.cfg.Enforcer.Status(); !now.equal(status) {
				status = now
				m.statusChanged()
			}
		case <-ctx.Done():
			return
		}
		m.drainMarked()
		pause.Reset(drainPause)
	}
}

// markAll has the refusals of all phones be read.
func (m *Manager) markAll() {
	slots := m.cfg.Enforcer.Phones()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, slot := range slots {
		m.dirty[slot] = true
	}
}

// statusChanged has every phone's list looked at again: the host promises more or less than before.
func (m *Manager) statusChanged() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch++
	for _, w := range m.wards {
		m.signal(w.wake)
	}
}

// drainMarked reads the refusals of the slots that are marked.
func (m *Manager) drainMarked() {
	m.mu.Lock()
	marked := m.dirty
	m.dirty = map[uint32]bool{}
	m.mu.Unlock()
	if len(marked) == 0 {
		return
	}
	for _, snap := range m.phones.List() {
		if marked[snap.Record.Slot] {
			m.drain(snap.Record.Slot, snap.Record.Spec.ID)
		}
	}
}

// drain reads the refusals of a phone.
func (m *Manager) drain(slot uint32, id string) {
	err := m.cfg.Enforcer.DrainDenials(slot, func(some []Refusal) error {
		return m.report(m.denialsOf(id, some))
	})
	if err != nil {
		m.cfg.Logger.Warn("refusals of apps not read; they are kept", "phone_id", id, "error", err)
	}
}

// denialsOf names the packages of what the kernel has refused.
func (m *Manager) denialsOf(id string, some []Refusal) []Denial {
	list := ""
	if snap, err := m.phones.Get(id); err == nil {
		list = snap.Record.Spec.AppList
	}
	m.mu.Lock()
	var table *packages.Table
	if w := m.wards[id]; w != nil {
		table = w.apps.table
	}
	m.mu.Unlock()
	now := m.cfg.Now()
	all := make([]Denial, 0, len(some))
	for _, r := range some {
		d := Denial{Phone: id, Kind: r.Kind, UID: r.UID, Count: r.Count, First: r.First, Last: r.Last, AppList: list}
		switch {
		case r.Unlisted:
			d.UID, d.First, d.Last = 0, now, now
		case r.Kind == Install:
			d.Packages = []string{printable(r.Package)}
		case table != nil:
			for _, p := range table.ByAppID(packages.Owner(r.UID)) {
				d.Packages = append(d.Packages, p.Name)
			}
		}
		all = append(all, d)
	}
	return all
}

// printable makes printable what a guest named.
func printable(name string) string {
	quoted := strconv.QuoteToASCII(name)
	return quoted[1 : len(quoted)-1]
}

// report hands denials to watchers and to the journal. It does not wait for a reader of either.
func (m *Manager) report(some []Denial) error {
	select {
	case m.told <- some:
		return nil
	case <-m.ended:
		return fault.New(errdefs.ErrUnavailable, fault.ShuttingDown, "the agent is shutting down")
	}
}

// writeJournal hands what is reported to the watchers, and summed up to the journal, until nobody reports any more. What is left untold then is
// told.
func (m *Manager) writeJournal() {
	sums := feed.NewSums(summing)
	timer := time.NewTimer(0)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case some := <-m.told:
			m.denials.Send(some...)
			for _, d := range some {
				sums.Add(d)
			}
		case <-timer.C:
		case <-m.ended:
			m.journal(sums.Take(time.Now(), true))
			return
		}
		now := time.Now()
		m.journal(sums.Take(now, false))
		if next := sums.Next(now); !next.IsZero() {
			timer.Reset(time.Until(next))
		} else {
			timer.Stop()
		}
	}
}

// alike is what denials that are one event have in common, beside the phone.
type alike struct {
	kind     Kind
	uid      uint32
	packages string
}

// summing is how denials are summed up for the journal.
var summing = feed.Summing[Denial, alike]{
	Kind: func(d Denial) (string, alike) { return d.Phone, alike{d.Kind, d.UID, strings.Join(d.Packages, ",")} },
	First: func(d Denial) time.Time {
		return d.First
	},
	Other: func(d Denial) Denial {
		return Denial{Phone: d.Phone, Count: d.Count, First: d.First, Last: d.Last, AppList: d.AppList}
	},
	Add: func(have, next Denial) Denial {
		next.Count += have.Count
		if have.First.Before(next.First) {
			next.First = have.First
		}
		if have.Last.After(next.Last) {
			next.Last = have.Last
		}
		return next
	},
	Compare: func(a, b Denial) int { return strings.Compare(a.words(), b.words()) },
}

// journal writes denials into the journal.
func (m *Manager) journal(some []Denial) {
	for _, d := range some {
		attributes := map[string]string{
			"kind": d.Kind.String(), "count": strconv.FormatUint(d.Count, 10),
			"first": d.First.UTC().Format(time.RFC3339Nano), "last": d.Last.UTC().Format(time.RFC3339Nano),
		}
		if d.UID != 0 {
			attributes["uid"] = strconv.FormatUint(uint64(d.UID), 10)
		}
		if len(d.Packages) > 0 {
			attributes["packages"] = strings.Join(d.Packages, ",")
		}
		if d.AppList != "" {
			attributes["app_list"] = d.AppList
		}
		m.cfg.Journal.Emit(event.Event{Kind: event.AppDenied, PhoneID: d.Phone, Time: d.Last, Message: d.words(), Attributes: attributes})
	}
}

// words is one sentence about a denial.
func (d Denial) words() string {
	who := strings.Join(d.Packages, ", ")
	if who == "" && d.UID != 0 {
		who = fmt.Sprintf("the app of uid %d", d.UID)
	}
	if who == "" {
		who = "some app"
	}
	times := ""
	if d.Count != 1 {
		times = fmt.Sprintf(" (%d times)", d.Count)
	}
	switch d.Kind {
	case Install:
		return fmt.Sprintf("%s was not to be installed in %s%s", who, d.Phone, times)
	case Launch:
		return fmt.Sprintf("%s was not to start in %s%s", who, d.Phone, times)
	case Network:
		return fmt.Sprintf("%s was not to use the network of %s%s", who, d.Phone, times)
	case Stopped:
		processes := "1 process"
		if d.Count != 1 {
			processes = fmt.Sprintf("%d processes", d.Count)
		}
		return fmt.Sprintf("what ran of %s in %s was ended, since it is denied (%s)", who, d.Phone, processes)
	}
	return fmt.Sprintf("apps of %s were refused something%s", d.Phone, times)
}

// WatchDenials watches what is refused to phones, all of them if none is named, from now on. The watcher must be closed.
func (m *Manager) WatchDenials(ids []string) *feed.Watcher[Denial] {
	wants := feed.Among(ids)
	return m.denials.Watch(func(d Denial) bool { return wants(d.Phone) })
}
