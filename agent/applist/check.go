package applist

import (
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/netpolicy/applist"
)

// Answer is what would become of an app of a phone.
type Answer struct {
	// AppList is the list that the phone is on, or empty.
	AppList string
	applist.Explanation
	// Status is what the host's kernel refuses, and State what became of the phone's list.
	Status Status
	State  State
}

// Check tells what would become of an app of a phone, by what is stored and known now. Errors: those of Phones.Get; a fault with reason
// INVALID_FIELD for what names no package.
func (m *Manager) Check(id, pkg string) (Answer, error) {
	if err := applist.CheckPackage(pkg); err != nil {
		return Answer{}, fault.Field("package", "%s", fault.Readable(fault.Words(err)))
	}
	snap, err := m.phones.Get(id)
	if err != nil {
		return Answer{}, err
	}
	list, err := m.listOf(snap)
	if err != nil {
		return Answer{}, err
	}
	m.mu.Lock()
	var a apps
	if w := m.wards[id]; w != nil {
		a = w.apps.fits(&snap.Record)
	}
	m.mu.Unlock()
	answer := Answer{AppList: snap.Record.Spec.AppList, Status: m.cfg.Enforcer.Status()}
	answer.State, _ = m.State(snap)
	of := applist.Phone{Table: a.table}
	of.Preinstalled = m.imageApps(snap.Record.ImageDigest, a.table).names
	if list != nil {
		v := m.judge(*list, snap.Record.Slot, a)
		of.Preinstalled = v.preinstalled
		if _, there := a.byName(pkg); v.blind != "" || !there && !a.complete {
			of.Table = nil // as the kernel's rules are made
		}
	}
	answer.Explanation = applist.Explain(list, of, pkg)
	return answer, nil
}
