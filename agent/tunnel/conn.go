package tunnel

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// headerSize is the size of a yamux header in bytes: version, type, flags (2), stream id (4), length (4); yamux spec.md.
const headerSize = 12

// yamuxData is the type of a yamux frame whose header is followed by a body.
const yamuxData = 0

// closeWait is how long a connection may take to say goodbye before it is cut.
const closeWait = 500 * time.Millisecond

// wireConn is what yamux writes to. yamux (v0.1.2) writes the header of a data frame and its body one after the other, which
// would be two TLS records and two system calls: wireConn holds a data header back and writes it with the body. A write that
// does not end in time is an error, with which yamux ends the session (a time-out inside yamux alone leaves it half dead:
// GHSA-29qp-crvh-w22m). Write is called by yamux's one sending goroutine only.
type wireConn struct {
	*tls.Conn
	raw     net.Conn
	timeout time.Duration
	held    []byte // a data header, and room for its body
	once    sync.Once
}

func newWireConn(conn *tls.Conn, raw net.Conn, timeout time.Duration) *wireConn {
	return &wireConn{Conn: conn, raw: raw, timeout: timeout, held: make([]byte, 0, headerSize+ChunkSize)}
}

func (c *wireConn) Write(p []byte) (int, error) {
	if len(c.held) == 0 && announcesBody(p) {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	out := p
	if len(c.held) > 0 {
		c.held = append(c.held, p...)
		out = c.held
	}
	if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	_, err := c.Conn.Write(out)
	c.held = c.held[:0]
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close ends the connection, with TLS's goodbye if the peer takes it within closeWait. It unblocks Read and Write.
func (c *wireConn) Close() error {
	var err error
	c.once.Do(func() {
		cut := time.AfterFunc(closeWait, func() { _ = c.raw.Close() })
		err = c.Conn.Close()
		cut.Stop()
	})
	return err
}

// announcesBody tells the header of a yamux data frame.
func announcesBody(p []byte) bool {
	return len(p) == headerSize && p[1] == yamuxData && binary.BigEndian.Uint32(p[8:]) > 0
}

// tuneTCP makes the kernel give up on a peer that acknowledges nothing for timeout, and leaves probing to yamux. Connections
// that are not TCP are left as they are.
func tuneTCP(conn net.Conn, timeout time.Duration) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	if err := tcp.SetKeepAlive(false); err != nil {
		return err
	}
	return setTCPOption(tcp, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds()))
}

// boundUnsent makes writes block while more than n bytes wait in the kernel to be sent.
func boundUnsent(conn net.Conn, n int) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	return setTCPOption(tcp, unix.TCP_NOTSENT_LOWAT, n)
}

func setTCPOption(conn syscall.Conn, option, value int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option, value)
	})
	return errors.Join(err, inner)
}
