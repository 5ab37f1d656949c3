package container

import (
	"context"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/profile"
)

// claim is a triple for a guest that is being started and has no container yet.
type claim struct{ phone, triple string }

// claimBinder chooses the binder devices that the phone's next guest gets. A triple is its guest's as long as the guest's container
// exists, whose label names it; a claim holds the triple besides until release is called, which is to be when the container is there or
// will not be. The error is a *binder.Refusal if there is nothing to be had.
func (e *Engine) claimBinder(ctx context.Context, p Phone) (grant binder.Grant, release func(), err error) {
	prof, err := profile.Get(p.Profile)
	if err != nil {
		return binder.Grant{}, nil, err
	}
	release = func() {}
	if prof.Binder == profile.BinderNone {
		return binder.Grant{}, release, nil
	}
	support, err := e.config.Binder()
	if err != nil {
		return binder.Grant{}, nil, fmt.Errorf("binder devices of %s: %w", p.ID, err)
	}
	switch support.Kind {
	case binder.Pool:
		return e.claimTriple(ctx, p.ID, support)
	case binder.None:
		if prof.Binder == profile.BinderRequired {
			return binder.Grant{}, nil, fmt.Errorf("binder devices of %s: %w", p.ID, binder.Missing())
		}
	}
	grant, err = support.Grant("", nil)
	return grant, release, err
}

// claimTriple chooses a triple of the pool for the phone: its own of before, if nobody has it, or the first free one.
func (e *Engine) claimTriple(ctx context.Context, id string, support binder.Support) (binder.Grant, func(), error) {
	// Whoever comes next must see the claim, or the container.
	e.binderMu.Lock()
	defer e.binderMu.Unlock()
	guests, err := e.client.ContainerService().List(ctx, "labels."+strconv.Quote(labelBinder))
	if err != nil {
		return binder.Grant{}, nil, fmt.Errorf("binder devices of %s: list the guests: %w", id, unavailable(err))
	}
	own := ""
	var used []string
	for _, g := range guests {
		if g.ID == containerID(id, Guest) {
			own = g.Labels[labelBinder]
		} else {
			used = append(used, g.Labels[labelBinder])
		}
	}
	for c := range e.claims {
		if c.phone != id {
			used = append(used, c.triple)
		}
	}
	grant, err := support.Grant(own, used)
	if err != nil {
		return binder.Grant{}, nil, fmt.Errorf("binder devices of %s: %w", id, err)
	}
	c := &claim{phone: id, triple: grant.Label()}
	e.claims[c] = struct{}{}
	return grant, func() {
		e.binderMu.Lock()
		defer e.binderMu.Unlock()
		delete(e.claims, c)
	}, nil
}

// allNice lets threads have every nice value from -20 on.
const allNice = 40

// niceLimit returns how much of allNice this process can give.
func niceLimit() (uint64, error) {
	caps := make([]unix.CapUserData, 2)
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0]); err != nil {
		return 0, fmt.Errorf("read the capabilities: %w", err)
	}
	if caps[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return allNice, nil
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NICE, &own); err != nil {
		return 0, fmt.Errorf("read the limit of nice values: %w", err)
	}
	return min(allNice, own.Max), nil
}
