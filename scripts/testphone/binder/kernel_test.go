package binder

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMServiceManager has a service manager, services and a client in processes of their own.
func TestVMServiceManager(t *testing.T) {
	vm.Run(t, vm.On("6.1", "6.12"), func(t *testing.T) {
		vm.Modprobe(t, "binder_linux", "devices=binder")
		device := anyDevice(t)
		if _, err := list(t, device); !errdefs.IsUnavailable(err) {
			t.Errorf("list without a service manager: %v", err)
		}
		manager, said := start(t, 1000, "manage", device)
		if said != ready {
			t.Fatal(said)
		}
		t.Run("services", func(t *testing.T) { services(t, device) })
		t.Run("refusals", func(t *testing.T) { refusals(t, device) })
		t.Run("many", func(t *testing.T) { many(t, device) })
		t.Run("lies", func(t *testing.T) { lies(t, device) })
		t.Run("cancel", func(t *testing.T) { cancelled(t, device) })
		wantList(t, device, "manager")
		if _, said := start(t, 1000, "manage", device); !strings.Contains(said, "has one") {
			t.Errorf("a second service manager says %q", said)
		}
		// Another one takes over when it dies.
		manager.kill()
		if _, said := start(t, 1000, "manage", device); said != ready {
			t.Errorf("the next service manager says %q", said)
		}
		wantList(t, device, "manager")
	})
}

// anyDevice returns a device of the kernel: its node in /dev, or that of a new binderfs.
func anyDevice(t *testing.T) string {
	t.Helper()
	device := "/dev/binder"
	if _, err := os.Stat(device); err != nil {
		dir := filepath.Join(t.TempDir(), "binderfs")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("binder", dir, "binder", 0, ""); err != nil {
			t.Fatalf("neither %s nor binderfs: %v", device, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
		device = filepath.Join(dir, "binder")
	}
	for path := filepath.Dir(device); len(path) > len("/tmp"); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(device, 0o666); err != nil {
		t.Fatal(err)
	}
	return device
}

func list(t *testing.T, device string) (names []string, err error) {
	t.Helper()
	err = Do(device, nil, func(c *Conn) (err error) {
		names, err = c.ListServices(t.Context())
		return err
	})
	return names, err
}

func wantList(t *testing.T, device string, want ...string) {
	t.Helper()
	got, err := list(t, device)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("services %v (-want +got):\n%s", err, diff)
	}
}

// reach finds a service, pings it and asks for its interface.
func reach(t *testing.T, device, name string) (iface string, err error) {
	t.Helper()
	err = Do(device, nil, func(c *Conn) error {
		handle, err := c.CheckService(t.Context(), name)
		if err != nil {
			return err
		}
		if err := c.Ping(t.Context(), handle); err != nil {
			return err
		}
		iface, err = c.Interface(t.Context(), handle)
		return err
	})
	return iface, err
}

func services(t *testing.T, device string) {
	wantList(t, device, "manager")
	if iface, err := reach(t, device, "manager"); err != nil || iface != managerInterface {
		t.Errorf("manager: %q %v", iface, err)
	}
	a, said := start(t, 0, "add", device, "a")
	b, also := start(t, 1000, "add", device, "b")
	if said != ready || also != ready {
		t.Fatalf("services say %q and %q", said, also)
	}
	wantList(t, device, "a", "b", "manager")
	for _, name := range []string{"a", "b"} {
		if iface, err := reach(t, device, name); err != nil || iface != "test."+name {
			t.Errorf("service %s: %q %v", name, iface, err)
		}
	}
	if _, err := reach(t, device, "c"); !errdefs.IsNotFound(err) {
		t.Errorf("a service that is not there: %v", err)
	}
	// The name of a service that was replaced is the new one's, whatever becomes of the old one.
	again, said := start(t, 0, "add", device, "a")
	if said != ready {
		t.Fatal(said)
	}
	a.kill()
	wantList(t, device, "a", "b", "manager")
	if iface, err := reach(t, device, "a"); err != nil || iface != "test.a" {
		t.Errorf("the service in another's place: %q %v", iface, err)
	}
	again.kill()
	b.end()
	gone(t, device, "a", "b")
}

// gone waits until the service manager has heard of deaths, which the driver tells it after the processes have ended.
func gone(t *testing.T, device string, names ...string) {
	t.Helper()
	for _, name := range names {
		for {
			if _, err := reach(t, device, name); errdefs.IsNotFound(err) {
				break
			} else if t.Context().Err() != nil {
				t.Fatalf("service %s stays: %v", name, err)
			}
		}
	}
}

func refusals(t *testing.T, device string) {
	if _, said := start(t, 10123, "add", device, "app"); !strings.Contains(said, "apps add no services") {
		t.Errorf("an app that adds a service hears %q", said)
	}
	if _, said := start(t, 110123, "add", device, "app"); !strings.Contains(said, "apps add no services") {
		t.Errorf("another user's app that adds a service hears %q", said)
	}
	for _, name := range []string{"manager", "a;b", strings.Repeat("x", 128)} {
		if _, said := start(t, 0, "add", device, name); !strings.Contains(said, "1..127") {
			t.Errorf("whoever adds %.20q hears %q", name, said)
		}
	}
	err := Do(device, nil, func(c *Conn) error {
		_, err := c.Transact(t.Context(), 0, 77, &Parcel{})
		return err
	})
	if !errors.Is(err, StatusUnknownCode) {
		t.Errorf("a call that the service manager does not know: %v", err)
	}
	err = Do(device, nil, func(c *Conn) error {
		p := &Parcel{}
		putToken(p, "android.os.IPowerManager")
		_, err := c.Transact(t.Context(), 0, codeListServices, p)
		return err
	})
	if !errors.Is(err, StatusPermissionDenied) {
		t.Errorf("a call of another interface: %v", err)
	}
	if err := Do(device, nil, func(c *Conn) error { return c.Ping(t.Context(), 99) }); !errdefs.IsInternal(err) && !errdefs.IsUnavailable(err) {
		t.Errorf("a call of an object that nobody gave: %v", err)
	}
}

// many gives one object more names than there may be.
func many(t *testing.T, device string) {
	err := Do(device, Service{Name: "many"}, func(c *Conn) error {
		for i := range maxServices - 1 { // one is the manager
			if err := c.AddService(t.Context(), fmt.Sprintf("s%d", i), 1); err != nil {
				return err
			}
		}
		if err := c.AddService(t.Context(), "s0", 1); err != nil {
			return fmt.Errorf("again: %w", err)
		}
		if err := c.AddService(t.Context(), "last", 1); !errdefs.IsResourceExhausted(err) {
			t.Errorf("one service too many: %v", err)
		}
		names, err := c.ListServices(t.Context())
		if err == nil && len(names) != maxServices {
			t.Errorf("%d services are listed, want %d", len(names), maxServices)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	gone(t, device, "s0", "s1022")
}

// lies sends the service manager what no honest client does. It must answer each, and be there afterwards.
func lies(t *testing.T, device string) {
	request := func(fill func(p *Parcel)) *Parcel {
		p := &Parcel{}
		putToken(p, managerInterface)
		fill(p)
		return p
	}
	random := rand.New(rand.NewPCG(1, 2))
	parcels := []*Parcel{
		{},
		{data: []byte{1, 2, 3}},
		request(func(p *Parcel) { p.PutInt32(1<<31 - 1) }),
		request(func(p *Parcel) { p.PutString("x"); p.PutObject(&Object{Handle: 5}); p.offsets = nil }),
		request(func(p *Parcel) { p.PutString("x"); p.PutObject(&Object{Local: 5}); p.offsets = nil }),
		request(func(p *Parcel) { p.PutString("x"); p.PutObject(&Object{Handle: 0}) }), // its own object
		request(func(p *Parcel) { p.data = append(p.data, make([]byte, 100<<10)...) }),
		request(func(p *Parcel) { p.PutString(strings.Repeat("\U0001F4F1", 20000)) }),
	}
	for range 300 {
		p := request(func(*Parcel) {})
		for range random.IntN(30) {
			p.PutInt32(int32(random.Uint32()) >> random.IntN(32))
		}
		parcels = append(parcels, p)
	}
	for i, p := range parcels {
		for code := range uint32(6) {
			err := Do(device, nil, func(c *Conn) error {
				_, err := c.Transact(t.Context(), 0, code, p)
				return err
			})
			if errdefs.IsUnavailable(err) {
				t.Fatalf("after parcel %d with code %d: %v", i, code, err)
			}
		}
	}
	wantList(t, device, "manager")
}

// cancelled waits for calls, which never come, until its context ends.
func cancelled(t *testing.T, device string) {
	ctx, cancel := context.WithCancel(t.Context())
	err := Do(device, Service{Name: "idle"}, func(c *Conn) error {
		if err := c.AddService(ctx, "idle", 1); err != nil {
			return err
		}
		cancel()
		return c.Serve(ctx)
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("serve until the context ends: %v", err)
	}
	gone(t, device, "idle")
}
