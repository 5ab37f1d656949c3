package container_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/container"
)

// pool is a kernel's sets of binder devices, by numbers that no driver of this host has: a guest gets the nodes, and cannot open them.
func pool(n uint32) func() (binder.Support, error) {
	s := binder.Support{Kind: binder.Pool}
	for i := range n {
		d := func(name string, minor uint32) binder.Device {
			return binder.Device{Path: fmt.Sprintf("/dev/%s%d", name, i), Major: 10, Minor: 300 + 3*i + minor}
		}
		s.Triples = append(s.Triples, binder.Triple{Name: fmt.Sprintf("binder%d", i), Binder: d("binder", 0), HwBinder: d("hwbinder", 1), VndBinder: d("vndbinder", 2)})
	}
	return func() (binder.Support, error) { return s, nil }
}

// reopen has another engine, of the present configuration, go on.
func (h *host) reopen() {
	h.t.Helper()
	old := h.engine
	h.engine = h.open()
	if err := old.Close(); err != nil {
		h.t.Error(err)
	}
}

// binderLabel returns which devices a phone's guest has, as its container says.
func (h *host) binderLabel(id string) string {
	h.t.Helper()
	c, err := h.engine.Client().ContainerService().Get(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return c.Labels["dev.phonehost.binder"]
}

func TestGuestsLeaseBinderDevices(t *testing.T) {
	h := newHost(t)
	h.config.Binder = pool(2)
	h.reopen()
	phones := []container.Phone{h.phone("p0", 0), h.phone("p1", 1), h.phone("p2", 2)}
	for _, p := range phones {
		h.prepare(p)
		if err := h.engine.StartDisplay(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	// Of three that start at once two have devices, not the same, and one is refused.
	errs := make([]error, len(phones))
	var all sync.WaitGroup
	for i, p := range phones {
		all.Go(func() { errs[i] = h.engine.StartGuest(t.Context(), p) })
	}
	all.Wait()
	var up []container.Phone
	var refused container.Phone
	for i, p := range phones {
		if errs[i] == nil {
			up = append(up, p)
			continue
		}
		refused = p
		var refusal *binder.Refusal
		if !errors.As(errs[i], &refusal) || !errdefs.IsResourceExhausted(errs[i]) {
			t.Errorf("start of %s: %v, want a refusal", p.ID, errs[i])
		}
		if h.observe(p.ID).Guest.Container {
			t.Errorf("%s was refused and has a container", p.ID)
		}
	}
	if len(up) != 2 || h.binderLabel(up[0].ID) == h.binderLabel(up[1].ID) {
		t.Fatalf("%d phones run: %v", len(up), errs)
	}
	if _, _, err := h.engine.Specs(t.Context(), refused); !errdefs.IsResourceExhausted(err) {
		t.Errorf("spec of a phone that cannot start: %v", err)
	}
	wantNodes(h, up[0].ID)

	// A guest that boots again has the same devices, though others would have them; another agent knows whose they are.
	h.reopen()
	label := h.binderLabel(up[1].ID)
	if err := h.engine.Kill(t.Context(), up[1].ID, container.Guest); err != nil {
		t.Fatal(err)
	}
	if err := h.engine.StartGuest(t.Context(), refused); !errdefs.IsResourceExhausted(err) {
		t.Errorf("start of a third beside a guest that has ended: %v", err)
	}
	if err := h.engine.StartGuest(t.Context(), up[1]); err != nil {
		t.Fatal(err)
	}
	if again := h.binderLabel(up[1].ID); again != label {
		t.Errorf("after the next boot %s has %s, want %s again", up[1].ID, again, label)
	}
	// When its container is gone they are the next one's.
	if err := h.engine.RemoveGuest(t.Context(), up[1].ID); err != nil {
		t.Fatal(err)
	}
	if err := h.engine.StartGuest(t.Context(), refused); err != nil {
		t.Fatal(err)
	}
	if got := h.binderLabel(refused.ID); got != label {
		t.Errorf("%s has %s, want %s, which was free", refused.ID, got, label)
	}
}

// wantNodes looks at a guest's nodes from inside, and at what its container's spec allows.
func wantNodes(h *host, id string) {
	h.t.Helper()
	c, err := h.engine.Client().ContainerService().Get(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	raw, err := typeurl.UnmarshalAny(c.Spec)
	if err != nil {
		h.t.Fatal(err)
	}
	spec := raw.(*specs.Spec)
	if len(spec.Linux.Devices) != len(binder.Names) {
		h.t.Fatalf("devices of %s: %+v", id, spec.Linux.Devices)
	}
	for i, d := range spec.Linux.Devices {
		if d.Path != "/dev/"+binder.Names[i] {
			h.t.Errorf("device %d is %s, want /dev/%s", i, d.Path, binder.Names[i])
		}
		var st unix.Stat_t
		if err := unix.Lstat(fmt.Sprintf("/proc/%d/root%s", h.observe(id).Guest.PID, d.Path), &st); err != nil {
			h.t.Fatal(err)
		}
		if st.Mode != unix.S_IFCHR|binder.Mode || st.Uid != 0 || st.Gid != 0 || st.Rdev != unix.Mkdev(uint32(d.Major), uint32(d.Minor)) {
			h.t.Errorf("%s in the guest: mode %o, owner %d:%d, number %#x", d.Path, st.Mode, st.Uid, st.Gid, st.Rdev)
		}
	}
}

func TestGuestWithoutBinderOfTheKernel(t *testing.T) {
	h := newHost(t)
	h.config.Binder = func() (binder.Support, error) { return binder.Support{}, nil }
	h.reopen()
	p := h.phone("p0", 0)
	h.start(p)
	if label := h.binderLabel(p.ID); label != "" {
		t.Errorf("its label says %q", label)
	}
	if code, out := h.exec(p.ID, "service", "ping"); code == 0 {
		t.Errorf("a service manager answers: %q", out)
	}
}

// TestBinderfsThatCannotBeMounted has a start fail when its guest's mounts are made.
func TestBinderfsThatCannotBeMounted(t *testing.T) {
	if s, err := binder.Probe(); err != nil || s.Kind == binder.FS {
		t.Skipf("needs a kernel without binderfs: %v", err)
	}
	h := newHost(t)
	h.config.Binder = func() (binder.Support, error) { return binder.Support{Kind: binder.FS, Major: 510}, nil }
	h.reopen()
	p := h.phone("p0", 0)
	h.prepare(p)
	if err := h.engine.StartDisplay(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := h.engine.StartGuest(t.Context(), p); err == nil {
		t.Fatal("a guest started without its binderfs")
	}
	if h.observe(p.ID).Guest.Container {
		t.Error("a guest that did not start has a container")
	}
	h.config.Binder = func() (binder.Support, error) { return binder.Support{}, nil }
	h.reopen()
	if err := h.engine.StartGuest(t.Context(), p); err != nil {
		t.Errorf("the next start: %v", err)
	}
}
