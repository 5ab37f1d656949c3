package wire

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxQueuedFDs is how many descriptors may wait to be sent.
const maxQueuedFDs = 64

// queuedFD is a descriptor that waits to be sent, not later than the byte at offset at of the queue.
type queuedFD struct {
	fd int
	at int
}

// outgoing is the sending half of a connection.
type outgoing struct {
	raw     syscall.RawConn
	max     int
	tryFn   func(fd uintptr)      // one pass, never waits
	drainFn func(fd uintptr) bool // passes until empty; waits when the socket is full
	drained sync.WaitGroup

	mu       sync.Mutex
	buf      []byte
	fds      []queuedFD
	oob      []byte
	draining bool  // a goroutine waits for room in the socket
	err      error // what broke the connection
}

func (o *outgoing) init(raw syscall.RawConn, max int) {
	o.raw, o.max = raw, max
	o.tryFn = func(fd uintptr) { o.writeLocked(int(fd)) }
	o.drainFn = func(fd uintptr) bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.writeLocked(int(fd))
		if o.err == nil && len(o.buf) > 0 {
			return false
		}
		o.draining = false
		return true
	}
}

// Send queues a message; Flush sends what is queued. Descriptors among args are duplicated and stay the caller's. It
// returns ErrMalformed for arguments that do not fit, ErrQueueFull when the peer does not read, and what broke the
// connection if it is broken. It never blocks, and is safe for concurrent use.
func (c *Conn) Send(object uint32, m *Message, args ...Value) error {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	at := len(o.buf)
	buf, err := Append(o.buf, object, m, args...)
	if err != nil {
		return err
	}
	if len(buf) > o.max {
		o.err = fmt.Errorf("%d bytes wait: %w", len(buf), ErrQueueFull)
		return o.err
	}
	for i := range args {
		if args[i].kind != KindFD {
			continue
		}
		if err := o.queueFD(args[i].fd, at); err != nil {
			o.err = fmt.Errorf("%v: %w", m, err)
			return o.err
		}
	}
	o.buf = buf
	return nil
}

func (o *outgoing) queueFD(fd, at int) error {
	if len(o.fds) >= maxQueuedFDs {
		return fmt.Errorf("%d descriptors wait: %w", len(o.fds), ErrQueueFull)
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("duplicate descriptor: %w", err)
	}
	o.fds = append(o.fds, queuedFD{fd: dup, at: at})
	return nil
}

// Flush sends what is queued as far as the socket takes it, and leaves the rest to a goroutine that Close waits for. It
// returns what broke the connection, if it is broken, and never blocks.
func (c *Conn) Flush() error {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil || len(o.buf) == 0 || o.draining {
		return o.err
	}
	if err := o.raw.Control(o.tryFn); err != nil {
		o.err = err
	}
	if o.err == nil && len(o.buf) > 0 {
		o.draining = true
		o.drained.Go(o.drain)
	}
	return o.err
}

// Queued returns how many bytes wait for the peer to read.
func (c *Conn) Queued() int {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return len(c.out.buf)
}

// drain waits for room in the socket until the queue is empty or the connection broken.
func (o *outgoing) drain() {
	if err := o.raw.Write(o.drainFn); err != nil {
		o.fail(err)
	}
}

// fail records what broke the connection, if nothing did before.
func (o *outgoing) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.draining = false
	if o.err == nil {
		o.err = err
	}
}

// writeLocked sends until the queue is empty or the socket full. The caller holds mu.
func (o *outgoing) writeLocked(fd int) {
	for len(o.buf) > 0 && o.err == nil {
		n, nfds := o.chunk()
		sent, err := unix.SendmsgN(fd, o.buf[:n], o.oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			o.err = fmt.Errorf("write to wayland peer: %w", err)
			return
		}
		o.consume(sent, nfds)
	}
}

// chunk prepares the next sendmsg: how many bytes, and how many descriptors, which are put into oob. Bytes of a message
// never leave before its descriptors.
func (o *outgoing) chunk() (n, nfds int) {
	n, nfds = len(o.buf), len(o.fds)
	o.oob = o.oob[:0]
	if nfds > MaxFDsPerSend {
		nfds = MaxFDsPerSend
		// The next one belongs to a message whose bytes must wait. No message has so many that it is the first.
		n = max(o.fds[nfds].at, 1)
	}
	if nfds > 0 {
		list := make([]int, nfds)
		for i := range list {
			list[i] = o.fds[i].fd
		}
		o.oob = unix.UnixRights(list...)
	}
	return n, nfds
}

// consume drops what was sent.
func (o *outgoing) consume(sent, nfds int) {
	o.buf = append(o.buf[:0], o.buf[sent:]...)
	for _, q := range o.fds[:nfds] {
		unix.Close(q.fd)
	}
	o.fds = append(o.fds[:0], o.fds[nfds:]...)
	for i := range o.fds {
		o.fds[i].at -= sent
	}
}

// close drops the queue and waits for the draining goroutine, which the closed socket has woken.
func (o *outgoing) close() {
	o.fail(net.ErrClosed)
	o.drained.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, q := range o.fds {
		unix.Close(q.fd)
	}
	o.fds, o.buf = nil, nil
}
