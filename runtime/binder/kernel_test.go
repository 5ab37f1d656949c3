package binder_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/scripts/testenv/vm"
	guest "github.com/phonehost/phonehost/scripts/testphone/binder"
)

// TestVMBinderfs has the module name one device, which is then in every new instance.
func TestVMBinderfs(t *testing.T) {
	vm.Run(t, vm.On("6.12", "7.3"), func(t *testing.T) {
		vm.Modprobe(t, "binder_linux", "devices=hwbinder,other")
		support := probe(t, binder.FS)
		if want := []string{"hwbinder", "other"}; !slices.Equal(support.Defaults, want) {
			t.Errorf("devices of every instance: %v, want %v", support.Defaults, want)
		}
		t.Run("allocate", func(t *testing.T) { allocates(t, support) })
		t.Run("exists", existing)
		t.Run("limit", func(t *testing.T) { limited(t, support) })
		t.Run("apart", func(t *testing.T) { apart(t, support) })
		t.Run("refuses", refuses)
	})
}

// TestVMBinderfsWithoutNames has the module name no device.
func TestVMBinderfsWithoutNames(t *testing.T) {
	vm.Run(t, vm.On("6.12"), func(t *testing.T) {
		vm.Modprobe(t, "binder_linux", "devices=")
		support := probe(t, binder.FS)
		if len(support.Defaults) > 0 {
			t.Errorf("devices of every instance: %v, want none", support.Defaults)
		}
		allocates(t, support)
		apart(t, support)
	})
}

// TestVMBinderfsWithAllNames has the module name all devices that a guest needs, so that every instance is full from the first.
func TestVMBinderfsWithAllNames(t *testing.T) {
	vm.Run(t, vm.On("6.12"), func(t *testing.T) {
		vm.Modprobe(t, "binder_linux", "devices=binder,hwbinder,vndbinder")
		support := probe(t, binder.FS)
		allocates(t, support)
		limited(t, support)
	})
}

// TestVMPool is for kernels without binderfs: the module makes the nodes that its parameter names.
func TestVMPool(t *testing.T) {
	vm.Run(t, vm.On("6.1"), func(t *testing.T) {
		if support, err := binder.Probe(); err != nil || support.Kind != binder.None {
			t.Errorf("before the module: %+v %v, want none", support, err)
		}
		vm.Modprobe(t, "binder_linux", "devices=binder,hwbinder,vndbinder,binder1,hwbinder1,vndbinder1,binder2,hwbinder2")
		pooled(t)
	})
}

func probe(t *testing.T, want binder.Kind) binder.Support {
	t.Helper()
	support, err := binder.Probe()
	if err != nil || support.Kind != want {
		t.Fatalf("support %+v %v, want %s", support, err, want)
	}
	return support
}

// allocate completes the binderfs of a guest's root.
func allocate(t *testing.T, dir string) error {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	return binder.Allocate(root, "/dev/binderfs")
}

// instance is a guest's root with a complete binderfs, mounted as a guest's spec says.
func instance(t *testing.T, support binder.Support) string {
	t.Helper()
	grant, err := support.Grant("", nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := guestRoot(t, fmt.Sprintf("max=%d", grant.Instance.Max))
	if err := allocate(t, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// node returns the path of a device in a guest's root, which is linked from /dev by a path that only the guest can follow.
func node(dir, name string) string { return filepath.Join(dir, "dev", "binderfs", name) }

func allocates(t *testing.T, support binder.Support) {
	numbers := map[uint64]string{}
	for range 2 {
		dir := instance(t, support)
		for _, name := range binder.Names {
			var st unix.Stat_t
			if err := unix.Stat(node(dir, name), &st); err != nil {
				t.Fatal(err)
			}
			if st.Mode != unix.S_IFCHR|binder.Mode || st.Uid != 0 || st.Gid != 0 {
				t.Errorf("%s: mode %o, owner %d:%d, want a node for everybody of root's", name, st.Mode, st.Uid, st.Gid)
			}
			if major := unix.Major(st.Rdev); major != support.Major {
				t.Errorf("%s: major %d, want %d", name, major, support.Major)
			}
			if other, taken := numbers[st.Rdev]; taken {
				t.Errorf("%s has the number of %s", node(dir, name), other)
			}
			numbers[st.Rdev] = node(dir, name)
			link, err := os.Readlink(filepath.Join(dir, "dev", name))
			if err != nil || link != "/dev/binderfs/"+name {
				t.Errorf("link of %s: %q %v", name, link, err)
			}
		}
		info, err := os.Stat(node(dir, "binder-control"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("binder-control: %v %v, want it to be root's only", info.Mode(), err)
		}
	}
}

func existing(t *testing.T) {
	dir := guestRoot(t, "")
	ctl, err := os.Open(node(dir, "binder-control"))
	if err != nil {
		t.Fatal(err)
	}
	defer ctl.Close()
	if err := binder.Add(ctl, "hwbinder"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("add a device that the module's parameter names: %v, want EEXIST", err)
	}
	if err := binder.Add(ctl, "binder"); err != nil {
		t.Error(err)
	}
	if err := binder.Add(ctl, "binder"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("add a device again: %v, want EEXIST", err)
	}
	for _, name := range []string{"", strings.Repeat("x", 256)} {
		if err := binder.Add(ctl, name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("add a device with a name of %d bytes: %v", len(name), err)
		}
	}
	if err := binder.Add(ctl, strings.Repeat("x", 255)); err != nil {
		t.Errorf("add a device with a name of 255 bytes: %v", err)
	}
}

func limited(t *testing.T, support binder.Support) {
	dir := instance(t, support)
	ctl, err := os.Open(node(dir, "binder-control"))
	if err != nil {
		t.Fatal(err)
	}
	defer ctl.Close()
	if err := binder.Add(ctl, "more"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("add a device to a complete instance: %v, want ENOSPC", err)
	}
}

// apart has processes talk to each other through one instance, and not from one to the other.
func apart(t *testing.T, support binder.Support) {
	one, two := instance(t, support), instance(t, support)
	stop := manage(t, node(one, "binder"))
	if err := ping(t, node(one, "binder")); err != nil {
		t.Errorf("ping within an instance: %v", err)
	}
	for _, path := range []string{node(two, "binder"), node(one, "hwbinder")} {
		if err := ping(t, path); !errdefs.IsUnavailable(err) {
			t.Errorf("ping through %s: %v, want that nobody is there", path, err)
		}
	}
	err := guest.Do(node(one, "binder"), nil, func(c *guest.Conn) error { return c.BecomeContextManager(1) })
	if !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second context manager: %v", err)
	}
	stopOther := manage(t, node(two, "binder"))
	if err := ping(t, node(two, "binder")); err != nil {
		t.Errorf("ping within the other instance: %v", err)
	}
	stop()
	if err := ping(t, node(one, "binder")); !errdefs.IsUnavailable(err) {
		t.Errorf("ping of a service manager that has ended: %v", err)
	}
	stopOther()
	// Whoever makes a node of another instance's number has nothing: that is why a guest's device cgroup may allow all minors.
	var st unix.Stat_t
	if err := unix.Stat(node(one, "binder"), &st); err != nil {
		t.Fatal(err)
	}
	stolen := filepath.Join(nodeDir(t), "stolen")
	if err := unix.Mknod(stolen, unix.S_IFCHR|0o666, int(st.Rdev)); err != nil {
		t.Fatal(err)
	}
	if err := ping(t, stolen); !errors.Is(err, unix.ENXIO) {
		t.Errorf("open a node with the number of another instance's device: %v, want ENXIO", err)
	}
}

func refuses(t *testing.T) {
	empty := t.TempDir()
	if err := allocate(t, empty); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a guest without the directory: %v", err)
	}
	plain := t.TempDir()
	if err := os.MkdirAll(filepath.Join(plain, "dev", "binderfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := allocate(t, plain); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a guest without binderfs: %v", err)
	}
	// An image whose /dev leads out of the guest.
	leading := t.TempDir()
	if err := os.Symlink(filepath.Join(guestRoot(t, ""), "dev"), filepath.Join(leading, "dev")); err != nil {
		t.Fatal(err)
	}
	if err := allocate(t, leading); err == nil {
		t.Error("a binderfs outside the guest's root was completed")
	}
}

func pooled(t *testing.T) {
	support := probe(t, binder.Pool)
	var names []string
	for _, triple := range support.Triples {
		names = append(names, triple.Name)
	}
	if want := []string{"binder", "binder1"}; !slices.Equal(names, want) {
		t.Fatalf("triples %v, want %v", names, want)
	}
	// The nodes that a guest gets are made by number.
	nodes, dir := map[string]string{}, nodeDir(t)
	for _, triple := range support.Triples {
		d := triple.Binder
		nodes[triple.Name] = filepath.Join(dir, triple.Name)
		if err := unix.Mknod(nodes[triple.Name], unix.S_IFCHR|0o666, int(unix.Mkdev(d.Major, d.Minor))); err != nil {
			t.Fatal(err)
		}
	}
	stop := manage(t, nodes["binder"])
	if err := ping(t, nodes["binder"]); err != nil {
		t.Errorf("ping within a triple: %v", err)
	}
	if err := ping(t, nodes["binder1"]); !errdefs.IsUnavailable(err) {
		t.Errorf("ping from another triple: %v, want that nobody is there", err)
	}
	stop()
	// The next guest on the same triple has a service manager too.
	manage(t, nodes["binder"])
	if err := ping(t, nodes["binder"]); err != nil {
		t.Errorf("ping within a triple that was used before: %v", err)
	}
	if _, err := support.Grant("", names); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a third guest: %v", err)
	}
}
