package container_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// recorded is a guard that only remembers which cgroups it was told of: the kernel's needs a machine of its own (TestVMAndroidProfiles).
type recorded struct{ protected []uint64 }

func (r *recorded) Protect(cgroup uint64) error {
	r.protected = append(r.protected, cgroup)
	return nil
}

func (r *recorded) Release(cgroup uint64) error {
	r.protected = slices.DeleteFunc(r.protected, func(c uint64) bool { return c == cgroup })
	return nil
}

func (r *recorded) Protected() ([]uint64, error) { return slices.Clone(r.protected), nil }

func TestGuestsThatMountNeedAGuard(t *testing.T) {
	h := newHost(t)
	h.config.Binder = pool(2)
	h.reopen()
	p := h.phone("p1", 0)
	p.Profile = "redroid"
	h.prepare(p)
	if err := h.engine.StartDisplay(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	err := h.engine.StartGuest(t.Context(), p)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "runtime.allow_unguarded") {
		t.Errorf("without a guard: %v", err)
	}
	if o := h.observe("p1"); o.Guest.Container {
		t.Errorf("the guest: %+v", o.Guest)
	}
	// testphone's guests mount nothing, and need none.
	p.Profile = "testphone"
	h.prepare(p) // its files are others
	if err := h.engine.StartGuest(t.Context(), p); err != nil {
		t.Error(err)
	}
}

// TestProtectionGoesWithPhones has an engine begin with the protection of phones that are gone, and of one that is there.
func TestProtectionGoesWithPhones(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.prepare(p)
	g := &recorded{protected: []uint64{1, 2}}
	h.config.Guard = g
	h.reopen()
	if len(g.protected) != 0 {
		t.Errorf("protected: %v, and no phone is", g.protected)
	}
	if err := h.engine.StartDisplay(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := h.engine.StartGuest(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if len(g.protected) != 0 {
		t.Errorf("testphone's guest is guarded: %v", g.protected)
	}
	if err := h.engine.Destroy(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
}
