package machine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/phonehost/phonehost/scripts/vm/control"
	"golang.org/x/sys/unix"
)

// link keeps a control session while the guest has the port open, until ctx ends. The guest closes the port when its computer
// is reset, and closes and opens it when a session ends.
func (m *Machine) link(ctx context.Context) {
	for ctx.Err() == nil {
		state, err := m.portOpen(ctx)
		if err != nil {
			return
		}
		session, cancel := context.WithCancel(ctx)
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			defer cancel()
			m.portChange(session, state)
		}()
		err = m.session(session)
		if err == nil || ctx.Err() != nil {
			cancel()
		} else {
			m.log.Debug("control session", "error", err)
		}
		<-watched
	}
}

// portOpen waits until the guest has the port open.
func (m *Machine) portOpen(ctx context.Context) (state portState, err error) {
	err = m.wait(ctx, func() (bool, error) {
		state = m.port
		return state.open, nil
	})
	return state, err
}

// portChange waits until the guest opens or closes the port.
func (m *Machine) portChange(ctx context.Context, from portState) error {
	return m.wait(ctx, func() (bool, error) { return m.port != from, nil })
}

// session begins one session, sets the guest's clock and keeps the session until it or ctx ends. An error means that none was
// begun.
func (m *Machine) session(ctx context.Context) error {
	conn, err := m.dialControl(ctx)
	if err != nil {
		return err
	}
	client, err := control.NewClient(ctx, conn, m.log)
	if err != nil {
		return err
	}
	defer client.Close()
	seed := make([]byte, 32)
	rand.Read(seed)
	if err := client.SetClock(ctx, time.Now(), seed); err != nil {
		return err
	}
	for _, problem := range client.Guest().Problems {
		m.log.Warn("the guest's boot", "problem", problem)
	}
	m.change(func() {
		m.client, m.offset = client, m.serialSize()
		if boot := client.Guest().BootID; boot != m.boot {
			m.boot = boot
			m.boots++
		}
	})
	select {
	case <-client.Done():
	case <-ctx.Done():
		// QEMU has told of the guest's end in another way than what the guest said last, some of which may still be to be read.
		conn.finish()
		<-client.Done()
	}
	m.change(func() { m.client = nil })
	return nil
}

func (m *Machine) dialControl(ctx context.Context) (*hostPort, error) {
	name, done, err := m.controlPath()
	if err != nil {
		return nil, err
	}
	defer done()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", name)
	if err != nil {
		return nil, fmt.Errorf("connect to the control port: %w", err)
	}
	return newHostPort(conn)
}

// hostPort is the host's end of the control port.
type hostPort struct {
	net.Conn
	raw syscall.RawConn
}

func newHostPort(conn net.Conn) (*hostPort, error) {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the control port is a %T and no socket", conn), conn.Close())
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &hostPort{conn, raw}, nil
}

// finish says that no more comes than has come: reads go on to the end of that, which is io.EOF. It may be called while one is under way.
func (p *hostPort) finish() { p.SetReadDeadline(time.Unix(1, 0)) }

// Read implements io.Reader.
func (p *hostPort) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	// The runtime reads nothing after a deadline, and what has come is there all the same.
	if controlErr := p.raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), b) }); controlErr != nil {
		return 0, controlErr
	}
	if n > 0 {
		return n, nil
	}
	return 0, io.EOF
}

// socketPair returns two ends of a connection, one of them for a child.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a connection for QEMU's monitor: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "monitor"), os.NewFile(uintptr(fds[1]), "monitor")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make a connection for QEMU's monitor: %w", err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.Join(errors.New("a socket pair is no pair of Unix sockets"), conn.Close(), theirs.Close())
	}
	return unixConn, theirs, nil
}
