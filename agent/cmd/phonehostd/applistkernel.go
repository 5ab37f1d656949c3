package main

import (
	"context"
	"iter"
	"maps"
	"os"
	"sync"

	"github.com/phonehost/phonehost/agent/applist"
	"github.com/phonehost/phonehost/netpolicy/appguard"
	applists "github.com/phonehost/phonehost/netpolicy/applist"
	"github.com/phonehost/phonehost/runtime/container"
)

// kernelApps is the kernel's side of app lists in the words of package applist.
type kernelApps struct {
	guard   *appguard.Guard
	refused *refusals
}

var _ applist.Enforcer = kernelApps{}

// Status implements applist.Enforcer.
func (k kernelApps) Status() applist.Status { return appStatus(k.guard.Status()) }

// appStatus is what was shown. Where that is nothing there is no tier: a mechanism that is attached promises nothing by itself.
func appStatus(s appguard.Status) applist.Status {
	status := applist.Status{Install: s.Shown.Install, Launch: s.Shown.Launch, Network: s.Shown.Network, Why: s.Why, Checked: s.Checked}
	if s.Shown != (appguard.Shown{}) {
		status.Tier, status.Mechanism = string(s.Tier), string(s.Mechanism)
	}
	return status
}

// SetPhone implements applist.Enforcer.
func (k kernelApps) SetPhone(cgroup uint64, r applist.Rules) error {
	return k.guard.SetPhone(cgroup, phoneApps(r))
}

// verdictBits are what the kernel denies for each part of a verdict.
var verdictBits = map[applists.Verdict]appguard.Bits{applists.RunDeny: appguard.DenyRun, applists.NetDeny: appguard.DenyNetwork}

// phoneApps is rules as the kernel has them.
func phoneApps(r applist.Rules) appguard.Phone {
	p := appguard.Phone{
		Slot: r.Slot, UnlistedDeny: r.Names.UnlistedDeny, UnknownDeny: r.Apps.UnknownDeny, IsolatedDeny: r.Apps.IsolatedDeny,
		Names: make([]appguard.Name, 0, len(r.Names.Entries)), Apps: make(map[uint32]appguard.Bits, len(r.Apps.Verdicts)),
	}
	for _, e := range r.Names.Entries {
		p.Names = append(p.Names, appguard.Name{Name: e.Name, Prefix: e.Prefix, Deny: e.Deny})
	}
	for app, verdict := range r.Apps.Verdicts {
		var bits appguard.Bits
		for part, bit := range verdictBits {
			if verdict&part != 0 {
				bits |= bit
			}
		}
		p.Apps[app] = bits
	}
	return p
}

// RemovePhone implements applist.Enforcer.
func (k kernelApps) RemovePhone(cgroup uint64) error { return k.guard.RemovePhone(cgroup) }

// Phones implements applist.Enforcer.
func (k kernelApps) Phones() map[uint64]uint32 { return k.guard.Phones() }

// Kill implements applist.Enforcer.
func (k kernelApps) Kill(ctx context.Context, dir string, doomed func(app uint32) bool) (int, error) {
	return k.guard.Kill(ctx, dir, doomed)
}

// refusalKinds are the kinds of refusals as package applist has them.
var refusalKinds = map[appguard.Kind]applist.Kind{
	appguard.KindInstall: applist.Install, appguard.KindLaunch: applist.Launch, appguard.KindNetwork: applist.Network,
}

// DrainDenials implements applist.Enforcer. What is reported is counted once.
func (k kernelApps) DrainDenials(slot uint32, report func([]applist.Refusal) error) error {
	return k.guard.DrainDenials(slot, func(some []appguard.Denial) error {
		all := make([]applist.Refusal, 0, len(some))
		for _, d := range some {
			all = append(all, applist.Refusal{
				Kind: refusalKinds[d.Kind], UID: d.UID, Package: d.Package, Unlisted: d.Unlisted, Count: d.Count, First: d.First, Last: d.Last,
			})
		}
		if err := report(all); err != nil {
			return err
		}
		k.refused.add(all)
		return nil
	})
}

// Events implements applist.Enforcer.
func (k kernelApps) Events(ctx context.Context) iter.Seq2[uint32, error] {
	return func(yield func(uint32, error) bool) {
		for e, err := range k.guard.Events(ctx) {
			if !yield(e.Slot, err) {
				return
			}
		}
	}
}

// refusals counts what was refused, by the word for its kind. The zero value is ready to be used, by many goroutines.
type refusals struct {
	mu    sync.Mutex
	kinds map[string]uint64
}

func (r *refusals) add(some []applist.Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kinds == nil {
		r.kinds = map[string]uint64{}
	}
	for _, s := range some {
		r.kinds[s.Kind.String()] += s.Count
	}
}

func (r *refusals) totals() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.kinds)
}

// guestApps is the engine in the words of package applist.
type guestApps struct{ engine *container.Engine }

var _ applist.Guests = guestApps{}

// Cgroup implements applist.Guests.
func (g guestApps) Cgroup(id string) (applist.Cgroup, error) {
	cgroup, dir, err := g.engine.GuestCgroup(id)
	return applist.Cgroup{ID: cgroup, Dir: dir}, err
}

// Root implements applist.Guests.
func (g guestApps) Root(ctx context.Context, id string) (*os.File, error) {
	return g.engine.GuestRoot(ctx, id)
}

// Exec implements applist.Guests.
func (g guestApps) Exec(ctx context.Context, id string, o container.ExecOptions) (uint32, error) {
	return g.engine.Exec(ctx, id, o)
}
