package netbench

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

func TestMain(m *testing.M) { os.Exit(netlab.Run(m)) }

var (
	gatewayAddress = netip.MustParseAddr("10.213.0.1")
	phoneAddress   = netip.MustParseAddr("10.213.0.2")
	serverAddress  = netip.MustParseAddr("45.0.0.2")
)

// path is a phone, the host that the process is in, and a server.
type path struct {
	phone, server netlab.Namespace
	link          netlink.Link // the host's end of the phone's link
	eth0          netlink.Link // the phone's
	core          *core
}

func newPath(b *testing.B) *path {
	b.Helper()
	testenv.Root(b)
	p := &path{phone: netlab.Make(b, "phone"), server: netlab.Make(b, "server")}
	p.link = p.phone.Wire(b, []string{gatewayAddress.String() + "/32"}, []string{phoneAddress.String() + "/16"})
	p.server.Wire(b, []string{"45.0.0.1/24"}, []string{serverAddress.String() + "/24"})
	must(b, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	must(b, p.phone.Do(func() (err error) {
		if p.eth0, err = netlink.LinkByName("eth0"); err != nil {
			return err
		}
		return withoutIPv6("eth0") // which would announce itself, and be dropped
	}))
	must(b, withoutIPv6(p.link.Attrs().Name))
	must(b, p.raise())
	core, err := newCore(p.phone)
	must(b, err)
	p.core = core
	b.Cleanup(core.stop)
	return p
}

func withoutIPv6(link string) error {
	return os.WriteFile("/proc/sys/net/ipv6/conf/"+link+"/disable_ipv6", []byte("1"), 0)
}

// raise brings the link up, with what goes when it is taken down: the route to the phone, and neighbours. They are permanent, as
// netpolicy/wire makes them: nothing but what is measured goes over the link.
func (p *path) raise() error {
	if err := netlink.LinkSetUp(p.link); err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: p.link.Attrs().Index, Dst: netlink.NewIPNet(phoneAddress.AsSlice()), Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteReplace(route); err != nil {
		return err
	}
	if err := neighbour(p.link, phoneAddress, p.eth0); err != nil {
		return err
	}
	return p.phone.Do(func() error { return neighbour(p.eth0, gatewayAddress, p.link) })
}

// neighbour says where address is from a link on.
func neighbour(from netlink.Link, address netip.Addr, to netlink.Link) error {
	return netlink.NeighSet(&netlink.Neigh{
		LinkIndex: from.Attrs().Index, IP: address.AsSlice(), HardwareAddr: to.Attrs().HardwareAddr, State: netlink.NUD_PERMANENT,
	})
}

// core is one thread on one processor, in the phone's namespace.
type core struct {
	work chan func() error
	done chan error
}

func newCore(phone netlab.Namespace) (*core, error) {
	c := &core{make(chan func() error), make(chan error)}
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		if err := settle(phone); err != nil {
			c.done <- err
			return
		}
		c.done <- nil
		for fn := range c.work {
			c.done <- fn()
		}
	}()
	return c, <-c.done
}

// settle moves the calling thread to the phone's namespace and the last processor that it may use.
func settle(phone netlab.Namespace) error {
	f, err := os.Open(phone.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("setns", err)
	}
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return os.NewSyscallError("sched_getaffinity", err)
	}
	for cpu := range len(may) * 64 {
		if may.IsSet(cpu) {
			one.Zero()
			one.Set(cpu)
		}
	}
	return os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(0, &one))
}

// do runs fn on the thread and waits for it.
func (c *core) do(fn func() error) error {
	c.work <- fn
	return <-c.done
}

func (c *core) stop() { close(c.work) }

// read reads exactly len(buf) bytes.
func read(fd int, buf []byte) error {
	for len(buf) > 0 {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := await(fd, unix.POLLIN); err != nil {
				return err
			}
		case err != nil:
			return os.NewSyscallError("read", err)
		case n == 0:
			return errors.New("read: the connection ended")
		default:
			buf = buf[n:]
		}
	}
	return nil
}

// await waits until a socket is ready, which takes no time as a rule: the packet is there when the write that sent it returns, unless the
// softirq was put off to a thread of the kernel's.
func await(fd int, events int16) error {
	ready := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		n, err := unix.Poll(ready, 5000)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("poll", err)
		case n == 0:
			return fmt.Errorf("nothing came over the path for 5 s")
		default:
			return nil
		}
	}
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
