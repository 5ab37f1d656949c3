package shape_test

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/shape"
)

// What programs answer: the next one decides, or the packet goes no further.
const (
	next = -1 // TCX_NEXT, TC_ACT_UNSPEC
	drop = 2  // TCX_DROP, TC_ACT_SHOT
)

// counting loads a program that counts IPv4 packets and answers verdict to all.
func counting(t *testing.T, verdict int32) (*ebpf.Program, func() uint64) {
	t.Helper()
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	must(t, err)
	t.Cleanup(func() { seen.Close() })
	const protocol = 16 // offset in struct __sk_buff
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "counting", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMem(asm.R7, asm.R1, protocol, asm.Word),
		asm.JNE.Imm(asm.R7, int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP))), "out"),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, seen.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, verdict).WithSymbol("out"),
		asm.Return(),
	}})
	must(t, err)
	t.Cleanup(func() { program.Close() })
	return program, func() (n uint64) {
		must(t, seen.Lookup(uint32(0), &n))
		return n
	}
}

// attach puts a program at the ingress of the phone's link: by TCX, or as a filter as on kernels before 6.6.
func (l lab) attach(t *testing.T, p *ebpf.Program, filter bool) (detach func()) {
	t.Helper()
	index := l.link.Attrs().Index
	if !filter {
		tcx, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p, Attach: ebpf.AttachTCXIngress})
		if errors.Is(err, ebpf.ErrNotSupported) {
			t.Skip("this kernel has no TCX")
		}
		must(t, err)
		return func() { must(t, tcx.Close()) }
	}
	clsact := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := netlink.QdiscAdd(clsact); err != nil && !errors.Is(err, unix.EEXIST) {
		t.Fatal(err)
	}
	f := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
		Fd:          p.FD(), Name: "counting", DirectAction: true,
	}
	must(t, netlink.FilterAdd(f))
	return func() { must(t, netlink.FilterDel(f)) }
}

// The datapath's programs see a packet once, before it is shaped; what they drop is not shaped. A packet that comes back from the ifb
// passes neither them nor the filter once more.
func TestProgramsComeBeforeTheShaper(t *testing.T) {
	l := newLab(t, 0)
	l.limit(t, 5*mbit, 0)
	shaped := func() uint64 {
		ifb, err := netlink.LinkByName(shape.UploadName(l.id))
		must(t, err)
		return ifb.Attrs().Statistics.TxPackets
	}
	for name, filter := range map[string]bool{"TCX": false, "filter": true} {
		t.Run(name, func(t *testing.T) {
			const count = 20
			program, seen := counting(t, next)
			detach := l.attach(t, program, filter)
			before := shaped()
			if n := l.answers(t, count, 5*time.Second); n != count {
				t.Errorf("of %d packets %d were answered", count, n)
			}
			if n := seen(); n != count {
				t.Errorf("of %d packets the program saw %d", count, n)
			}
			if n := shaped() - before; n < count {
				t.Errorf("of %d packets %d were shaped", count, n)
			}
			detach()
			program, seen = counting(t, drop)
			detach = l.attach(t, program, filter)
			defer detach()
			before = shaped()
			if n := l.answers(t, count, 100*time.Millisecond); n > 0 {
				t.Errorf("of packets that the program drops %d were answered", n)
			}
			if n := seen(); n != count {
				t.Errorf("of %d packets the program saw %d, to drop them", count, n)
			}
			if n := shaped() - before; n > 0 {
				t.Errorf("%d packets were shaped that had been dropped", n)
			}
		})
	}
}
