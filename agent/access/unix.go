package access

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// UnixConfig says where and for whom a Unix socket is opened.
type UnixConfig struct {
	// Path of the socket; its directory must exist.
	Path string
	// Mode of the socket; 0 means 0660.
	Mode fs.FileMode
	// GID is the group of the socket; 0 leaves the group of this process.
	GID uint32
	// MaxConns is the most connections that one user other than root holds at a time; 0 means 64. What is more is closed.
	MaxConns int
}

// UnixListener accepts connections on a Unix socket as PeerConn: the kernel says which user and groups the peer had when it
// connected. It implements net.Listener and is safe for concurrent use.
type UnixListener struct {
	listener *net.UnixListener
	path     string
	maxConns int

	mu    sync.Mutex
	conns map[uint32]int // open connections by user
}

// ListenUnix opens the socket. The socket appears under its name only when it has its mode and group and accepts. A socket
// that nobody serves any more is replaced; one that is served is an error of class errdefs.ErrAlreadyExists, and anything
// else of that name is left alone.
func ListenUnix(c UnixConfig) (*UnixListener, error) {
	if c.Mode == 0 {
		c.Mode = 0o660
	}
	if c.MaxConns == 0 {
		c.MaxConns = 64
	}
	if err := checkFree(c.Path); err != nil {
		return nil, err
	}
	temp := c.Path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("socket %s: %w", c.Path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", c.Path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := publish(temp, c); err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s: %w", c.Path, err), l.Close(), os.Remove(temp))
	}
	return &UnixListener{listener: l, path: c.Path, maxConns: c.MaxConns, conns: map[uint32]int{}}, nil
}

func publish(temp string, c UnixConfig) error {
	if c.GID != 0 {
		if err := os.Chown(temp, -1, int(c.GID)); err != nil {
			return err
		}
	}
	if err := os.Chmod(temp, c.Mode); err != nil {
		return err
	}
	return os.Rename(temp, c.Path)
}

// checkFree tells whether path can be taken: it does not exist or is a socket that refuses connections.
func checkFree(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("socket %s: %w", path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("socket %s: a file that is no socket is there: %w", path, errdefs.ErrAlreadyExists)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("socket %s: another process serves it: %w", path, errdefs.ErrAlreadyExists), conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return fmt.Errorf("socket %s: %w", path, err)
	}
}

// Accept waits for the next connection; it is a PeerConn. Connections whose peer the kernel does not tell, and those of a
// user who has too many, are closed and not returned.
func (l *UnixListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.listener.AcceptUnix()
		if err != nil {
			return nil, err
		}
		id, err := peerIdentity(conn)
		if err != nil || !l.admit(id.UID) {
			_ = conn.Close() // the peer sees the end of the connection; there is nobody else to tell
			continue
		}
		return &unixConn{UnixConn: conn, listener: l, identity: id}, nil
	}
}

// Close stops accepting and removes the socket. Connections that were accepted live on.
func (l *UnixListener) Close() error {
	err := l.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	if rmErr := os.Remove(l.path); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return err
}

// Addr returns the address of the socket.
func (l *UnixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *UnixListener) admit(uid uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if uid != 0 && l.conns[uid] >= l.maxConns {
		return false
	}
	l.conns[uid]++
	return true
}

func (l *UnixListener) leave(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns[uid]--; l.conns[uid] == 0 {
		delete(l.conns, uid)
	}
}

// unixConn is an accepted connection with its peer.
type unixConn struct {
	*net.UnixConn
	listener *UnixListener
	identity Identity
	closed   sync.Once
}

func (c *unixConn) Identity() Identity  { return c.identity }
func (c *unixConn) Door() string        { return "unix" }
func (c *unixConn) SessionKind() string { return "" }

func (c *unixConn) Close() error {
	c.closed.Do(func() { c.listener.leave(c.identity.UID) })
	return c.UnixConn.Close()
}

// peerIdentity asks the kernel who connected. The supplementary groups are those that the peer had at connect
// (SO_PEERGROUPS, Linux 4.13), so what it could do then and what it is taken for here agree.
func peerIdentity(conn *net.UnixConn) (Identity, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Identity{}, err
	}
	var id Identity
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			inner = fmt.Errorf("peer credentials: %w", err)
			return
		}
		groups, err := peerGroups(int(fd))
		if err != nil {
			inner = fmt.Errorf("peer groups: %w", err)
			return
		}
		groups = append(groups, cred.Gid)
		slices.Sort(groups)
		id = Identity{Kind: KindUID, UID: cred.Uid, GIDs: slices.Compact(groups)}
	})
	return id, errors.Join(err, inner)
}

// peerGroups returns the supplementary groups of the peer of a Unix socket.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups)) * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return groups[:size/4], nil
		case unix.ERANGE: // size now says how much there is
			groups = make([]uint32, size/4)
		default:
			return nil, errno
		}
	}
}
