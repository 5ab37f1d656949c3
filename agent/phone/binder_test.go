package phone

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/profile"
)

// poolOf is a kernel with so many sets of binder devices.
func poolOf(n int) binder.Support {
	s := binder.Support{Kind: binder.Pool}
	for i := range n {
		s.Triples = append(s.Triples, binder.Triple{Name: fmt.Sprintf("binder%d", i)})
	}
	return s
}

func TestPowerOnWithoutBinderDevices(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		support := poolOf(2)
		a := startAgent(t, phonetest.New(), path, func(c *Config) {
			c.Binder = func() (binder.Support, error) { return support, nil }
		})
		defer a.stop()
		for i := range 4 {
			a.create(fmt.Sprintf("p%d", i))
		}
		free := func(want int) {
			t.Helper()
			got, n, err := a.Binder()
			if err != nil || got.Kind != support.Kind || n != want {
				t.Errorf("the host has %s with %d sets free, %v; want %s, %d", got.Kind, n, err, support.Kind, want)
			}
		}
		free(2)
		refused := func(what string, ids ...string) {
			t.Helper()
			before := a.List()
			_, err := a.Submit(t.Context(), Request{Kind: operation.PowerOn, IDs: ids})
			if fault.Reason(err) != fault.NoBinder || !errdefs.IsResourceExhausted(err) {
				t.Errorf("%s: %v, want %s", what, err, fault.NoBinder)
			}
			for i, snap := range a.List() {
				if snap.Revision != before[i].Revision {
					t.Errorf("%s: refused, and changed %s", what, snap.Record.Spec.ID)
				}
			}
		}
		// Of three at once two have devices, and only the third is refused.
		op, err := a.Submit(t.Context(), Request{Kind: operation.PowerOn, IDs: []string{"p0", "p1", "p2"}})
		if err != nil {
			t.Fatal(err)
		}
		a.finish(op)
		if op, err = a.ops.Get(op.ID); err != nil {
			t.Fatal(err)
		}
		for i, want := range []operation.State{operation.Succeeded, operation.Succeeded, operation.Failed} {
			if op.Results[i].State != want {
				t.Errorf("%s: %v, want %v: %+v", op.Results[i].PhoneID, op.Results[i].State, want, op.Results[i].Failure)
			}
		}
		if f := op.Results[2].Failure; f == nil || f.Reason != fault.NoBinder {
			t.Errorf("the third: %+v, want reason %s", f, fault.NoBinder)
		}
		free(0)
		refused("a third beside two", "p2")
		a.do(operation.Restart, "p1", operation.Succeeded)
		refused("a third beside two, one of which was restarted", "p2", "p3")

		// A phone that is held has no guest; when it is off another may have its devices.
		a.do(operation.PowerOff, "p0", operation.Succeeded)
		free(1)
		a.do(operation.PowerOn, "p2", operation.Succeeded)
		refused("after the exchange", "p0")

		// A kernel that was given more devices meanwhile has room.
		support = poolOf(3)
		a.do(operation.PowerOn, "p0", operation.Succeeded)
		refused("the fourth of three", "p3")
		support = poolOf(1) // fewer than are in use
		free(0)
		support = binder.Support{Kind: binder.FS, Major: 510}
		free(0)
		a.do(operation.PowerOn, "p3", operation.Succeeded)
	})
}

func TestPowerOnWaitsForTheGuestThatIsStillThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		a := startAgent(t, phonetest.New(), path, func(c *Config) {
			c.Binder = func() (binder.Support, error) { return poolOf(1), nil }
		})
		defer a.stop()
		a.on("p0")
		a.create("p1")
		off := a.submit(operation.PowerOff, "p0", nil)
		_, err := a.Submit(t.Context(), Request{Kind: operation.PowerOn, IDs: []string{"p1"}})
		if fault.Reason(err) != fault.NoBinder {
			t.Errorf("while the other shuts down: %v, want %s", err, fault.NoBinder)
		}
		a.finish(off)
		a.do(operation.PowerOn, "p1", operation.Succeeded)
	})
}

func TestBindersByNeed(t *testing.T) {
	none := binder.Support{}
	tests := []struct {
		name    string
		support binder.Support
		need    profile.Binder
		class   error
	}{
		{"no need, no binder", none, profile.BinderNone, nil},
		{"no need, no room", poolOf(0), profile.BinderNone, nil},
		{"optional, no binder", none, profile.BinderOptional, nil},
		{"optional, binderfs", binder.Support{Kind: binder.FS}, profile.BinderOptional, nil},
		{"optional, no room", poolOf(1), profile.BinderOptional, errdefs.ErrResourceExhausted},
		{"required, no binder", none, profile.BinderRequired, errdefs.ErrFailedPrecondition},
		{"required, binderfs", binder.Support{Kind: binder.FS}, profile.BinderRequired, nil},
		{"required, room", poolOf(2), profile.BinderRequired, nil},
		{"required, no room", poolOf(1), profile.BinderRequired, errdefs.ErrResourceExhausted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := binders{support: tt.support, count: func() (map[string]bool, error) { return map[string]bool{"other": true}, nil }}
			err := b.take("p1", tt.need)
			if !errors.Is(err, tt.class) {
				t.Errorf("take: %v, want class %v", err, tt.class)
			}
			if err != nil && (fault.Reason(err) != fault.NoBinder || fault.NoBinder != binder.Reason) {
				t.Errorf("reason %q, want %s", fault.Reason(err), fault.NoBinder)
			}
		})
	}
}
