package shape_test

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// farAway wires the server to the host by a line that takes delay each way: two TUN devices with this process between them. The kernel
// may have no netem.
func farAway(t testing.TB, server netlab.Namespace, delay time.Duration) {
	t.Helper()
	near, err := tun("up-"+server.Name, "192.0.2.1/24", false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	var far *os.File
	if err := server.Do(func() (err error) { far, err = tun("eth0", serverAddress+"/24", true); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	carry(near, far, delay)
	carry(far, near, delay)
}

// tun makes a TUN device in the calling thread's namespace that takes and gives packets as large as the kernel's own.
func tun(name, address string, route bool) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return nil, os.NewSyscallError("TUNSETIFF", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6); err != nil {
		return nil, os.NewSyscallError("TUNSETOFFLOAD", err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return nil, err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetTxQLen(link, 10000); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, err
	}
	if route {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Scope: netlink.SCOPE_LINK}); err != nil {
			return nil, err
		}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// carry passes packets on, later, until one of the files is closed.
func carry(from, to *os.File, delay time.Duration) {
	type packet struct {
		at   time.Time
		data []byte
	}
	line := make(chan packet, 20000)
	go func() {
		defer close(line)
		buf := make([]byte, 1<<17)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			line <- packet{time.Now().Add(delay), append([]byte(nil), buf[:n]...)}
		}
	}()
	go func() {
		for p := range line {
			wait(time.Until(p.at))
			if _, err := to.Write(p.data); err != nil {
				for range line { // until the reader is gone
				}
				return
			}
		}
	}()
}
