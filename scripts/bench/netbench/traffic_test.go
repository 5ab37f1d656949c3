package netbench

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ends are two sockets, both of which the core has.
type ends struct{ phone, server int }

func (e ends) close() {
	_ = unix.Close(e.phone)
	_ = unix.Close(e.server)
}

// roundTrip sends a byte to the server and one back.
func (e ends) roundTrip() error {
	var one [1]byte
	for _, way := range [][2]int{{e.phone, e.server}, {e.server, e.phone}} {
		if _, err := unix.Write(way[0], one[:]); err != nil {
			return os.NewSyscallError("write", err)
		}
		if err := read(way[1], one[:]); err != nil {
			return err
		}
	}
	return nil
}

// listen opens the server's socket for connections.
func (p *path) listen() (fd int, at *unix.SockaddrInet4, err error) {
	err = p.server.Do(func() error {
		fd, at, err = bound(unix.SOCK_STREAM)
		if err != nil {
			return err
		}
		return os.NewSyscallError("listen", unix.Listen(fd, 128))
	})
	return fd, at, err
}

// bound opens a socket at a free port of the server's address, in the calling thread's namespace.
func bound(kind int) (int, *unix.SockaddrInet4, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: serverAddress.As4()}); err != nil {
		return 0, nil, os.NewSyscallError("bind", err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		return 0, nil, os.NewSyscallError("getsockname", err)
	}
	return fd, at.(*unix.SockaddrInet4), nil
}

// connect makes a connection to a listening socket. It is for the core's thread.
func connect(listener int, at *unix.SockaddrInet4) (e ends, err error) {
	e.phone, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return e, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(e.phone, at); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return e, os.NewSyscallError("connect", err)
	}
	for {
		e.server, _, err = unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if !errors.Is(err, unix.EAGAIN) {
			return e, os.NewSyscallError("accept", err)
		}
		if err := await(listener, unix.POLLIN); err != nil {
			return e, err
		}
	}
}

// tcp makes a connection for round trips and bulk data, whose pace no timer sets.
func (p *path) tcp() (e ends, err error) {
	listener, at, err := p.listen()
	if err != nil {
		return e, err
	}
	defer unix.Close(listener)
	if err := unix.SetsockoptString(listener, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic"); err != nil {
		return e, os.NewSyscallError("TCP_CONGESTION", err)
	}
	err = p.core.do(func() error {
		if e, err = connect(listener, at); err != nil {
			return err
		}
		for _, fd := range []int{e.phone, e.server} {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
				return os.NewSyscallError("TCP_NODELAY", err)
			}
			if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic"); err != nil {
				return os.NewSyscallError("TCP_CONGESTION", err)
			}
		}
		return nil
	})
	return e, err
}

// udp makes two sockets that are connected with one another.
func (p *path) udp() (e ends, err error) {
	var at *unix.SockaddrInet4
	if err := p.server.Do(func() error { e.server, at, err = bound(unix.SOCK_DGRAM); return err }); err != nil {
		return e, err
	}
	err = p.core.do(func() error {
		e.phone, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		if err := unix.Connect(e.phone, at); err != nil {
			return os.NewSyscallError("connect", err)
		}
		from, err := unix.Getsockname(e.phone)
		if err != nil {
			return os.NewSyscallError("getsockname", err)
		}
		return os.NewSyscallError("connect", unix.Connect(e.server, from))
	})
	return e, err
}

// roundTrips returns the time of one round trip, in the fastest of some batches.
func (p *path) roundTrips(e ends) (best time.Duration, err error) {
	return p.fastest(30, 200, e.roundTrip)
}

// connections returns the time of a connection of one byte that ends with a reset, in the fastest of some batches.
func (p *path) connections() (time.Duration, error) {
	listener, at, err := p.listen()
	if err != nil {
		return 0, err
	}
	defer unix.Close(listener)
	return p.fastest(20, 50, func() error {
		e, err := connect(listener, at)
		if err != nil {
			return err
		}
		defer e.close()
		var one [1]byte
		if _, err := unix.Write(e.phone, one[:]); err != nil {
			return os.NewSyscallError("write", err)
		}
		if err := read(e.server, one[:]); err != nil {
			return err
		}
		return os.NewSyscallError("SO_LINGER", unix.SetsockoptLinger(e.phone, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	})
}

// fastest returns the time that fn takes in the fastest of some batches.
func (p *path) fastest(batches, size int, fn func() error) (best time.Duration, err error) {
	err = p.core.do(func() error {
		for range batches {
			began := time.Now()
			for range size {
				if err := fn(); err != nil {
					return err
				}
			}
			if took := time.Since(began); best == 0 || took < best {
				best = took
			}
		}
		return nil
	})
	return best / time.Duration(size), err
}

// bulk returns how fast bytes go from the phone to the server, in bit/s, in the fastest of some batches.
func (p *path) bulk(e ends) (float64, error) {
	const batch = 32 << 20
	buf := make([]byte, 256<<10)
	took, err := p.fastest(12, 1, func() error {
		for left := batch; left > 0; {
			if _, err := unix.Write(e.phone, buf); err != nil && !errors.Is(err, unix.EAGAIN) {
				return os.NewSyscallError("write", err)
			}
			n, err := drain(e.server, buf)
			if err != nil {
				return err
			}
			if left -= n; n == 0 {
				if err := await(e.server, unix.POLLIN); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return 8 * batch / took.Seconds(), nil
}

// drain reads what there is.
func drain(fd int, buf []byte) (n int, err error) {
	for {
		m, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EAGAIN) {
			return n, nil
		}
		if err != nil {
			return n, os.NewSyscallError("read", err)
		}
		if m == 0 {
			return n, errors.New("read: the connection ended")
		}
		n += m
	}
}
