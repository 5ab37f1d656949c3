package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// QEMU's user mode network gives every machine the same addresses.
var (
	address = netip.MustParsePrefix("10.0.2.15/24")
	gateway = netip.MustParseAddr("10.0.2.2")
)

// startNetwork brings up the loopback and eth0, which the driver of the machine's one network card has made by now or makes
// soon.
func startNetwork(ctx context.Context) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("start the network: %w", err)
	}
	defer unix.Close(fd)
	if err := up(fd, "lo"); err != nil {
		return err
	}
	if _, err := waitFor(ctx, "network card eth0", func() (string, error) {
		if _, err := os.Stat("/sys/class/net/eth0"); !errors.Is(err, os.ErrNotExist) {
			return "eth0", err
		}
		return "", nil
	}); err != nil {
		return err
	}
	if err := setAddress(fd, unix.SIOCSIFADDR, "eth0", address.Addr()); err != nil {
		return err
	}
	mask := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-address.Bits()))))
	if err := setAddress(fd, unix.SIOCSIFNETMASK, "eth0", mask); err != nil {
		return err
	}
	if err := up(fd, "eth0"); err != nil {
		return err
	}
	return defaultRoute(fd)
}

func up(fd int, name string) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring %s up: %w", name, err)
	}
	return nil
}

func setAddress(fd int, request uint, name string, addr netip.Addr) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := req.SetInet4Addr(addr.AsSlice()); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, request, req); err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, addr, err)
	}
	return nil
}

// routeEntry is struct rtentry of linux/route.h on a 64-bit machine.
type routeEntry struct {
	_           uint64
	destination unix.RawSockaddrInet4
	gateway     unix.RawSockaddrInet4
	mask        unix.RawSockaddrInet4
	flags       uint16
	_           [62]byte
}

// defaultRoute sets the route by which a machine would reach the world, if QEMU let it.
func defaultRoute(fd int) error {
	inet := func(a netip.Addr) unix.RawSockaddrInet4 {
		return unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.As4()}
	}
	none := netip.IPv4Unspecified()
	entry := routeEntry{destination: inet(none), gateway: inet(gateway), mask: inet(none), flags: unix.RTF_UP | unix.RTF_GATEWAY}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&entry)))
	if errno != 0 && !errors.Is(errno, unix.EEXIST) {
		return fmt.Errorf("route by %s: %w", gateway, errno)
	}
	return nil
}

// reseed mixes random bytes into the kernel's generator and makes it use them from now on.
func reseed(seed []byte) error {
	fd, err := unix.Open("/dev/urandom", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// struct rand_pool_info of linux/random.h: the count of bits of entropy, the size of what follows.
	info := binary.NativeEndian.AppendUint32(nil, uint32(8*len(seed)))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(seed)))
	info = append(info, seed...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return fmt.Errorf("add entropy: %w", errno)
	}
	if err := unix.IoctlSetInt(fd, rndReseed, 0); err != nil {
		return fmt.Errorf("take it: %w", err)
	}
	return nil
}

// rndReseed is RNDRESEEDCRNG, _IO('R', 7) of linux/random.h.
const rndReseed = 'R'<<8 | 7
