package datapath

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/pinned"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// LoadedPolicy is what the kernel's object of a policy says of itself.
type LoadedPolicy struct {
	// Generation is the object's.
	Generation uint64
	// Header is its first two cells.
	Header [2]policy.Cell
}

// LoadPolicy puts a policy in force in a slot, for all phones that have it, with one write: each packet is judged by the whole of the
// former one or the whole of this one, and once LoadPolicy has returned none by the former. Established flows are judged again with their next packet.
//
// errdefs.ErrInvalidArgument: a slot that cannot be, an object without cells; errdefs.ErrResourceExhausted: no memory. After an error the former policy holds.
func (d *Datapath) LoadPolicy(slot uint32, o *policy.Object) error {
	if slot >= maxPolicies {
		return fmt.Errorf("policy %d: slots of policies are below %d: %w", slot, maxPolicies, errdefs.ErrInvalidArgument)
	}
	if len(o.Cells) < len(LoadedPolicy{}.Header) {
		return fmt.Errorf("load policy %d: an object has two cells and more, not %d: %w", slot, len(o.Cells), errdefs.ErrInvalidArgument)
	}
	if err := putCells(d.maps.policies, d.specs.policies, slot, o.Cells); err != nil {
		return fmt.Errorf("load policy %d of %d cells: %w", slot, len(o.Cells), pinned.Classed(err))
	}
	return nil
}

// UnloadPolicy takes a policy away: nothing passes for phones that still have it. That there is none is no error.
func (d *Datapath) UnloadPolicy(slot uint32) error {
	if slot >= maxPolicies {
		return fmt.Errorf("policy %d: slots of policies are below %d: %w", slot, maxPolicies, errdefs.ErrInvalidArgument)
	}
	if err := pinned.DeleteKey(d.maps.policies, slot); err != nil {
		return fmt.Errorf("unload policy %d: %w", slot, pinned.Classed(err))
	}
	return nil
}

// LoadedPolicies returns the policies that are in force, by slot.
func (d *Datapath) LoadedPolicies() (map[uint32]LoadedPolicy, error) {
	slots, err := pinned.Occupied(d.maps.policies)
	if err != nil {
		return nil, pinned.Classed(err)
	}
	all := map[uint32]LoadedPolicy{}
	for _, slot := range slots {
		m, err := pinned.Inner(d.maps.policies, slot)
		if err != nil {
			return nil, pinned.Classed(err)
		}
		if m == nil {
			continue
		}
		p, err := header(m)
		m.Close()
		if err != nil {
			return nil, fmt.Errorf("policy %d: %w", slot, pinned.Classed(err))
		}
		all[slot] = p
	}
	return all, nil
}

func header(m *ebpf.Map) (p LoadedPolicy, err error) {
	for i := range p.Header {
		if err := m.Lookup(uint32(i), &p.Header[i]); err != nil {
			return p, err
		}
	}
	p.Generation = p.Header[0][0]
	return p, nil
}

// SetProtected says which addresses a policy must name to open them, as policy.CompileAddresses makes them, with one write. The first
// address must be ::. errdefs.ErrInvalidArgument: there is none.
func (d *Datapath) SetProtected(cells []policy.Cell) error {
	if len(cells) == 0 {
		return fmt.Errorf("set protected addresses: none, not even ::, which is the first: %w", errdefs.ErrInvalidArgument)
	}
	if err := putCells(d.maps.protected, d.specs.protected, 0, cells); err != nil {
		return fmt.Errorf("set %d protected addresses: %w", len(cells), pinned.Classed(err))
	}
	return nil
}

// putCells makes an immutable object and puts it in a slot of an array of maps.
func putCells(outer *ebpf.Map, spec *ebpf.MapSpec, slot uint32, cells []policy.Cell) error {
	spec = spec.Copy()
	spec.MaxEntries = uint32(len(cells))
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := fill(m, cells); err != nil {
		return err
	}
	if err := m.Freeze(); err != nil {
		return err
	}
	return outer.Put(slot, m)
}

// fill writes the cells of an object through a mapping of it, which takes a sixteenth of the time of writing them by bpf(2): 0.5 ms for
// the 40 000 cells of 10 000 rules.
func fill(m *ebpf.Map, cells []policy.Cell) error {
	memory, err := unix.Mmap(m.FD(), 0, len(cells)*int(unsafe.Sizeof(policy.Cell{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the object's memory: %w", err)
	}
	copy(memory, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(cells))), len(memory)))
	return unix.Munmap(memory)
}
