package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// readSize is how much is read at once; twice the longest message, so that one always fits.
	readSize = 2 * MaxMessage
	// maxPendingFDs is how many descriptors may wait for their messages. Descriptors arrive no later than the first byte of
	// the sendmsg that carries them, so an honest peer has at most two sendmsgs' worth outstanding.
	maxPendingFDs = 64
)

var (
	// ErrFDs is the class of violations of the rules for descriptors: too many at once, or too many outstanding.
	ErrFDs = fmt.Errorf("wayland descriptors: %w", errdefs.ErrResourceExhausted)
	// ErrQueueFull tells that the peer does not read what it is sent.
	ErrQueueFull = fmt.Errorf("wayland peer does not read: %w", errdefs.ErrResourceExhausted)
)

// Conn is one end of a Wayland connection. It owns the socket and all descriptors that arrive until they are decoded.
type Conn struct {
	sock *net.UnixConn
	raw  syscall.RawConn

	// The reader's, used by one goroutine at a time.
	buf     []byte
	off     int // start of what has not been returned
	fill    int // end of what has been read
	oob     []byte
	fds     []int
	readFn  func(fd uintptr) bool
	readN   int
	readErr error

	out outgoing
}

// NewConn makes a connection of a socket, which it then owns. maxQueue is how many bytes may wait for a peer that does not
// read, beyond what the socket holds; at least MaxMessage.
func NewConn(sock *net.UnixConn, maxQueue int) (*Conn, error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("wayland socket: %w", err)
	}
	c := &Conn{
		sock: sock,
		raw:  raw,
		buf:  make([]byte, readSize),
		oob:  make([]byte, unix.CmsgSpace(4*MaxFDsPerSend)),
	}
	c.readFn = c.readOnce
	c.out.init(raw, max(maxQueue, MaxMessage))
	return c, nil
}

// Close breaks the connection: Next and Flush return, what is queued is dropped, pending descriptors are closed. It must not
// be called while another goroutine is in Decode. It waits for the goroutine that empties the queue, if there is one.
func (c *Conn) Close() error {
	err := c.sock.Close()
	c.out.close()
	return err
}

// Release closes the descriptors that have arrived and belong to no decoded message. Only the reader may call it, when it
// has stopped reading.
func (c *Conn) Release() {
	for _, fd := range c.fds {
		unix.Close(fd)
	}
	c.fds = nil
}

// Shutdown makes a Next that is under way, and all later ones, return an error, without closing the socket.
func (c *Conn) Shutdown() { _ = c.sock.CloseRead() }

// Peer returns the process that connected, as the kernel recorded it.
func (c *Conn) Peer() (*unix.Ucred, error) {
	var cred *unix.Ucred
	var err error
	if ctlErr := c.raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); ctlErr != nil {
		return nil, ctlErr
	}
	return cred, err
}

// Buffered tells whether Next would return without reading from the socket.
func (c *Conn) Buffered() bool {
	have := c.fill - c.off
	if have < HeaderSize {
		return false
	}
	h, err := ParseHeader(c.buf[c.off:])
	return err != nil || have >= h.Size
}

// Next returns the next message: its header and the bytes after it, valid until the next call. It returns io.EOF when the
// peer closed between two messages, io.ErrUnexpectedEOF within one, and errors of class ErrMalformed or ErrFDs for what no
// honest peer sends.
func (c *Conn) Next() (Header, []byte, error) {
	for {
		if c.fill-c.off >= HeaderSize {
			h, err := ParseHeader(c.buf[c.off:])
			if err != nil {
				return h, nil, err
			}
			if c.fill-c.off >= h.Size {
				body := c.buf[c.off+HeaderSize : c.off+h.Size]
				c.off += h.Size
				return h, body, nil
			}
		}
		if err := c.readMore(); err != nil {
			return Header{}, nil, err
		}
	}
}

// Decode unmarshals the body that Next returned, and hands over the descriptors of its signature.
func (c *Conn) Decode(dst []Value, m *Message, body []byte) ([]Value, error) {
	return Decode(dst, m, body, c.takeFD)
}

func (c *Conn) takeFD() (int, bool) {
	if len(c.fds) == 0 {
		return -1, false
	}
	fd := c.fds[0]
	c.fds = append(c.fds[:0], c.fds[1:]...)
	return fd, true
}

// readMore waits for bytes and appends them to the buffer.
func (c *Conn) readMore() error {
	if c.off > 0 {
		copy(c.buf, c.buf[c.off:c.fill])
		c.fill -= c.off
		c.off = 0
	}
	if err := c.raw.Read(c.readFn); err != nil {
		return err
	}
	if c.readErr != nil {
		return c.readErr
	}
	if c.readN == 0 {
		if c.fill > 0 {
			return io.ErrUnexpectedEOF
		}
		return io.EOF
	}
	c.fill += c.readN
	return nil
}

// readOnce is one recvmsg; it returns false when the poller should wait.
func (c *Conn) readOnce(fd uintptr) bool {
	n, oobn, flags, _, err := unix.Recvmsg(int(fd), c.buf[c.fill:], c.oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	for errors.Is(err, unix.EINTR) {
		n, oobn, flags, _, err = unix.Recvmsg(int(fd), c.buf[c.fill:], c.oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	}
	if errors.Is(err, unix.EAGAIN) {
		return false
	}
	c.readN, c.readErr = max(n, 0), err
	if err != nil {
		c.readErr = fmt.Errorf("read from wayland peer: %w", err)
		return true
	}
	if oobn > 0 || flags&unix.MSG_CTRUNC != 0 {
		c.readErr = c.addFDs(c.oob[:oobn], flags)
	}
	return true
}

// addFDs collects the descriptors of one recvmsg. Those of a refused one are kept too, so that Release closes them.
func (c *Conn) addFDs(oob []byte, flags int) error {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("parse control message: %w", err)
	}
	for i := range msgs {
		if msgs[i].Header.Level != unix.SOL_SOCKET || msgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fmt.Errorf("parse descriptors: %w", err)
		}
		c.fds = append(c.fds, fds...)
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return fmt.Errorf("more than %d with one message: %w", MaxFDsPerSend, ErrFDs)
	}
	if len(c.fds) > maxPendingFDs {
		return fmt.Errorf("%d that no message has claimed: %w", len(c.fds), ErrFDs)
	}
	return nil
}

// CloseFDs closes the descriptors among args.
func CloseFDs(args []Value) {
	for i := range args {
		if args[i].kind == KindFD && args[i].fd >= 0 {
			unix.Close(args[i].fd)
			args[i].fd = -1
		}
	}
}
