package nettest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// calls are what root in a phone may try against what holds it. Each returns an error if it was refused or found nothing.
var calls = map[string]func() error{
	"next-program":   func() error { return bpf(unix.BPF_PROG_GET_NEXT_ID, make([]byte, 16)) },
	"next-map":       func() error { return bpf(unix.BPF_MAP_GET_NEXT_ID, make([]byte, 16)) },
	"next-link":      func() error { return bpf(unix.BPF_LINK_GET_NEXT_ID, make([]byte, 16)) },
	"program-by-id":  func() error { return byEachID(unix.BPF_PROG_GET_FD_BY_ID) },
	"map-by-id":      func() error { return byEachID(unix.BPF_MAP_GET_FD_BY_ID) },
	"link-by-id":     func() error { return byEachID(unix.BPF_LINK_GET_FD_BY_ID) },
	"query-eth0":     func() error { return bpf(unix.BPF_PROG_QUERY, make([]byte, 64)) },
	"detach-program": func() error { return bpf(unix.BPF_PROG_DETACH, make([]byte, 64)) },
	"detach-link":    func() error { return bpf(unix.BPF_LINK_DETACH, make([]byte, 16)) },
	"pins":           pins,
	"own-bpffs":      ownPins,
	"network-of-1":   enterNetwork,
	"new-network":    func() error { return unix.Unshare(unix.CLONE_NEWNET) },
	"new-user":       func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
}

// own are programs of the phone's own on its own end, which root may have.
var own = map[string]func() error{"bounce": bounce, "reflect": reflect}

// bounce sends all that eth0 receives back to the other end of its link, by traffic control, as if it had come in there.
func bounce() error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R1, int32(eth0.Attrs().Index)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirectPeer.Call(), asm.Return(),
	}})
	if err != nil {
		return err
	}
	attrs := netlink.QdiscAttrs{LinkIndex: eth0.Attrs().Index, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0)}
	if err := netlink.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "clsact"}); err != nil {
		return err
	}
	return netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: eth0.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Protocol: unix.ETH_P_ALL, Priority: 1}, Fd: prog.FD(), Name: "bounce", DirectAction: true,
	})
}

// reflect does the same by XDP.
func reflect() error {
	const xdpTx = 3
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpTx), asm.Return()}})
	if err != nil {
		return err
	}
	return netlink.LinkSetXdpFd(eth0, prog.FD())
}

// bpf makes a call with arguments that are all zero, or those given.
func bpf(command int, args []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(unsafe.Pointer(&args[0])), uintptr(len(args)))
	if errno != 0 {
		return errno
	}
	return nil
}

// byEachID asks for objects by the first identifiers that there are.
func byEachID(command int) error {
	var last error
	for id := range uint32(4096) {
		args := make([]byte, 16)
		*(*uint32)(unsafe.Pointer(&args[0])) = id
		if last = bpf(command, args); last == nil {
			return nil
		}
	}
	return last
}

// pins looks for pinned objects where the host has them.
func pins() error {
	entries, err := os.ReadDir("/sys/fs/bpf")
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return errors.New("nothing is there")
	}
	return nil
}

// ownPins mounts a BPF file system and looks for the host's pins in it.
func ownPins() error {
	const at = "/dev/bpf"
	if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := unix.Mount("bpf", at, "bpf", 0, ""); err != nil {
		return err
	}
	defer unix.Unmount(at, unix.MNT_DETACH) // the guest's own
	if _, err := os.Stat(at + "/phonehost"); err != nil {
		return err
	}
	return nil
}

// enterNetwork enters the network namespace of the first process that it sees, which is the phone's own if all is well.
func enterNetwork() error {
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	first, err := os.Open("/proc/1/ns/net")
	if err != nil {
		return err
	}
	defer first.Close()
	runtime.LockOSThread()
	if err := unix.Setns(int(first.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	after, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	if before == after {
		return fmt.Errorf("it is the phone's own: %s", after)
	}
	return nil
}
