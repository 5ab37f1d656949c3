package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// nameSize is the size of names in maps: zero-filled, longer ones cut.
const nameSize = 32

type name [nameSize]byte

func named(s string) (n name) {
	copy(n[:nameSize-1], s)
	return n
}

// filesystems are the kinds that a guest may mount anew. Instances of all of them are the mounter's own, but for cgroups, of which it
// sees its own subtree. What is not here would be the host's (proc, sysfs, debugfs, devtmpfs, binder with stats=global), reads images that
// a guest made (ext4, erofs), or speaks to servers of the guest's choosing (nfs, 9p, ceph).
var filesystems = []string{"tmpfs", "devpts", "cgroup", "cgroup2", "overlay", "fuse", "bpf", "mqueue"}

// What the programs know of names in /proc, and in cgroup v1.
const (
	hidden   = 1 << iota // a file that is not opened at all
	writable             // a directory whose files can be written
	settable             // a file whose owner and mode can be set
)

// names are those that are special. All other files of the kernel can be read and not written.
var names = map[string]uint32{
	"kallsyms": hidden, "kcore": hidden, "keys": hidden, "kmsg": hidden, "kpagecgroup": hidden, "kpagecount": hidden, "kpageflags": hidden,
	"latency_stats": hidden, "sched_debug": hidden, "sysrq-trigger": hidden, "timer_list": hidden, "vmallocinfo": hidden, "vmcore": hidden,
	// Of a cgroup v1: which devices open, which whoever has CAP_SYS_ADMIN may widen again.
	"devices.allow": hidden, "devices.deny": hidden,
	// lmkd watches the pressure of memory by writing what it waits for.
	"pressure": writable,
	// first_stage_init takes it for fatal if it cannot change the mode.
	"cmdline": settable,
}

// maps are what the programs read.
type maps struct {
	guests      *ebpf.Map // cgroup id -> 1; pinned
	canary      *ebpf.Map // 0 -> the process that tries the programs out, or 0
	filesystems *ebpf.Map // name -> 1
	names       *ebpf.Map // name -> flags
}

// openMaps finds the pinned map of guests, or makes it, and the others, which are pinned too: links that are found read theirs.
func openMaps(dir string) (_ *maps, err error) {
	m := &maps{}
	defer func() {
		if err != nil {
			m.close()
			if m.guests != nil {
				m.guests.Close()
			}
		}
	}()
	for _, want := range []struct {
		into **ebpf.Map
		spec ebpf.MapSpec
	}{
		{&m.guests, ebpf.MapSpec{Name: "guests", Type: ebpf.Hash, KeySize: 8, ValueSize: 1, MaxEntries: maxGuests}},
		{&m.canary, ebpf.MapSpec{Name: "canary", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}},
		{&m.filesystems, ebpf.MapSpec{Name: "filesystems_" + version, Type: ebpf.Hash, KeySize: nameSize, ValueSize: 4, MaxEntries: 64}},
		{&m.names, ebpf.MapSpec{Name: "names_" + version, Type: ebpf.Hash, KeySize: nameSize, ValueSize: 4, MaxEntries: 64}},
	} {
		if *want.into, err = pinnedMap(dir, want.spec); err != nil {
			return nil, err
		}
	}
	for _, kind := range filesystems {
		err = errors.Join(err, m.filesystems.Put(named(kind), uint32(1)))
	}
	for file, flags := range names {
		err = errors.Join(err, m.names.Put(named(file), flags))
	}
	return m, err
}

// pinnedMap finds a map or makes it.
func pinnedMap(dir string, spec ebpf.MapSpec) (*ebpf.Map, error) {
	path := filepath.Join(dir, spec.Name)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err == nil {
		return m, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("pinned map %s: %w", spec.Name, err)
	}
	if m, err = ebpf.NewMap(&spec); err != nil {
		return nil, fmt.Errorf("map %s: %w", spec.Name, err)
	}
	if err := m.Pin(path); err != nil {
		m.Close()
		return nil, fmt.Errorf("pin map %s: %w", spec.Name, err)
	}
	return m, nil
}

// close closes what only the programs need; the caller owns the map of guests.
func (m *maps) close() {
	for _, each := range []*ebpf.Map{m.canary, m.filesystems, m.names} {
		if each != nil {
			each.Close()
		}
	}
}

// try has the programs judge this process for a moment, and opens what no guest may open.
func (m *maps) try() error {
	if err := m.canary.Put(uint32(0), uint32(os.Getpid())); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	defer m.canary.Put(uint32(0), uint32(0)) //nolint:errcheck // an array's element can always be written
	f, err := os.OpenFile("/proc/sysrq-trigger", os.O_WRONLY, 0)
	if errors.Is(err, unix.EPERM) {
		return nil
	}
	if err == nil {
		f.Close()
		return fmt.Errorf("guard: the programs are attached and not obeyed: bpf is not among the security modules (lsm= on the kernel's command line): %w", errdefs.ErrNotImplemented)
	}
	return fmt.Errorf("guard: %w", err)
}
