package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// receiveBuffer is what is asked for as room for messages that wait for a socket; the kernel gives what net.core.rmem_max allows.
const receiveBuffer = 4 << 20

// sockets are those that a server listens on, a UDP and a TCP one for each address.
type sockets struct {
	udp []*net.UDPConn
	tcp []*net.TCPListener
}

// listen opens the sockets of addresses, beside those of another server.
func listen(addresses []netip.AddrPort) (*sockets, error) {
	s := &sockets{}
	for _, a := range addresses {
		family := "4"
		if a.Addr().Is6() {
			family = "6"
		}
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return control(c, shareable(a.Addr())) }}
		config.SetMultipathTCP(false)
		conn, err := config.ListenPacket(context.Background(), "udp"+family, a.String())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen on %s: %w", a, err), s.close())
		}
		u := conn.(*net.UDPConn)
		s.udp = append(s.udp, u)
		if err := u.SetReadBuffer(receiveBuffer); err != nil {
			return nil, errors.Join(fmt.Errorf("listen on %s: %w", a, err), s.close())
		}
		l, err := config.Listen(context.Background(), "tcp"+family, a.String())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen on %s: %w", a, err), s.close())
		}
		t := l.(*net.TCPListener)
		s.tcp = append(s.tcp, t)
		if err := preferNewest(t); err != nil {
			return nil, errors.Join(fmt.Errorf("listen on %s: %w", a, err), s.close())
		}
	}
	return s, nil
}

// shareable sets what a socket needs before it is bound: to an address that may be on no link yet, and that another server may have.
func shareable(a netip.Addr) func(fd int) error {
	return func(fd int) error {
		level, option := unix.SOL_IP, unix.IP_FREEBIND
		if a.Is6() {
			level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
		}
		if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
			return fmt.Errorf("set IP_FREEBIND: %w", err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return fmt.Errorf("set SO_REUSEPORT: %w", err)
		}
		return nil
	}
}

func control(c syscall.RawConn, fn func(fd int) error) error {
	var inner error
	if err := c.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// preferNewest makes the kernel give new connections to the second of two listeners of an address. The kernel numbers them in the order
// in which they came, and gives the place of one that goes to the last; where there is no second it chooses as it would without this
// filter (net/core/sock_reuseport.c). A listener cannot be left out in another way without losing connections that wait in it.
func preferNewest(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	return control(raw, func(fd int) error {
		filter := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 1}}
		program := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, program); err != nil {
			return fmt.Errorf("set SO_ATTACH_REUSEPORT_CBPF: %w", err)
		}
		return nil
	})
}

// yield makes the kernel give new messages to other servers, while those that wait are still read: a UDP socket that is connected is
// chosen only for its peer, and nobody is the peer.
func (s *sockets) yield(log *slog.Logger) {
	for _, u := range s.udp {
		raw, err := u.SyscallConn()
		if err == nil {
			err = control(raw, func(fd int) error { return unix.Connect(fd, nobody(u)) })
		}
		if err != nil {
			log.Warn("messages that come while this server ends may be lost", "error", err)
		}
	}
}

// nobody is an address from which nothing comes.
func nobody(u *net.UDPConn) unix.Sockaddr {
	if u.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is4() {
		return &unix.SockaddrInet4{Port: 1, Addr: [4]byte{127, 0, 0, 1}}
	}
	return &unix.SockaddrInet6{Port: 1, Addr: [16]byte{15: 1}}
}

// stop ends reading; answers can still be written.
func (s *sockets) stop() {
	for _, u := range s.udp {
		_ = u.SetReadDeadline(time.Unix(1, 0)) // fails only when it is closed
	}
	for _, l := range s.tcp {
		_ = l.SetDeadline(time.Unix(1, 0))
	}
}

func (s *sockets) close() error {
	var errs []error
	for _, u := range s.udp {
		errs = append(errs, u.Close())
	}
	for _, l := range s.tcp {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}
