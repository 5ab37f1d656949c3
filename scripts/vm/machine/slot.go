package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/netns"
)

// Slots is how many machines run on a host at once, from whatever cache and as whatever user they are started. A slot is a Unix
// socket with an abstract name (unix(7)): nothing of it is left when its process ends, no file system has to be shared, and
// no file's owner keeps another user out. So what counts as a host is a network namespace, the one that HostNetwork names or our own: containers
// have Slots machines each. Any user can take the names, and keep all others waiting.
const Slots = 2

// HostNetwork is the environment variable that names the host's network namespace, a file, to processes that live in another one
// (scripts/testenv/netlab): they share the slots of all others.
const HostNetwork = "PHONEHOST_VM_HOST_NETWORK"

// hostSlots is what the names of the host's slots begin with.
const hostSlots = "phonehost-vm-slot"

// takeSlot waits until one of n slots is free and takes it, until it is closed or the process ends. If none is free at first,
// waiting is called once with the names of the processes that have them; it may be nil.
func takeSlot(ctx context.Context, prefix string, n int, waiting func(holders string)) (io.Closer, error) {
	q := &slotQueue{prefix: prefix, conns: make([]*net.UnixConn, n), ended: make(chan int, n)}
	defer q.leave()
	for ctx.Err() == nil {
		slot, wait, err := q.try()
		if slot != nil || err != nil {
			return slot, err
		}
		if wait && waiting != nil {
			waiting(q.holders())
			waiting = nil
		}
		if wait {
			q.wait(ctx)
		}
	}
	return nil, context.Cause(ctx)
}

// slotQueue waits for slots. Who has a slot listens on its socket and accepts nobody; who waits connects to all of them. The
// end of the holder, or of its socket, resets the connections.
type slotQueue struct {
	prefix  string
	conns   []*net.UnixConn // to the holder of each slot, nil if it is not known
	crowded bool            // a slot is taken whose holder no more can connect to
	ended   chan int        // the numbers of connections that ended; it has room for all
	reading sync.WaitGroup
}

// try takes a slot that nobody is known to hold. It reports whether all are taken.
func (q *slotQueue) try() (slot io.Closer, wait bool, err error) {
	wait, q.crowded = true, false
	for i, known := range q.conns {
		if known != nil {
			continue
		}
		name := &net.UnixAddr{Net: "unix", Name: "@" + q.prefix + "-" + strconv.Itoa(i)}
		var listener *net.UnixListener
		var conn *net.UnixConn
		err := onHost(func() (err error) {
			listener, err = net.ListenUnix("unix", name)
			return err
		})
		if err == nil {
			return listener, false, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, false, fmt.Errorf("take a slot: %w", err)
		}
		err = onHost(func() (err error) {
			conn, err = net.DialUnix("unix", nil, name)
			return err
		})
		switch {
		case err == nil:
			q.conns[i] = conn
			q.reading.Go(func() {
				conn.Read(make([]byte, 1)) // nothing ever comes
				q.ended <- i
			})
		case errors.Is(err, unix.ECONNREFUSED):
			wait = false // it became free
		case errors.Is(err, unix.EAGAIN):
			q.crowded = true
		default:
			return nil, false, fmt.Errorf("ask who has slot %s: %w", name.Name, err)
		}
	}
	return nil, wait, nil
}

// onHost calls fn in the host's network namespace.
func onHost(fn func() error) error {
	path := os.Getenv(HostNetwork)
	if path == "" {
		return fn()
	}
	dir, name := filepath.Split(path)
	return netns.New(dir).Do(name, fn)
}

// crowdedTime is how often a slot is tried whose holder has more who wait than the kernel lets connect (net.core.somaxconn).
const crowdedTime = time.Second

// wait waits until a slot may have become free, or ctx ends.
func (q *slotQueue) wait(ctx context.Context) {
	var again <-chan time.Time
	if q.crowded {
		again = time.After(crowdedTime)
	}
	select {
	case i := <-q.ended:
		q.conns[i].Close()
		q.conns[i] = nil
	case <-again:
	case <-ctx.Done():
	}
}

func (q *slotQueue) leave() {
	for _, conn := range q.conns {
		if conn != nil {
			conn.Close()
		}
	}
	q.reading.Wait()
}

// holders names the processes that have the slots: "pid 12 (vm.test), pid 15 (vm)".
func (q *slotQueue) holders() string {
	var names []string
	for _, conn := range q.conns {
		if conn != nil {
			names = append(names, holder(conn))
		}
	}
	return strings.Join(names, ", ")
}

// holder names the process that listened for a connection.
func holder(conn *net.UnixConn) string {
	const unseen = "a process that cannot be seen from here" // such as one outside of our PID namespace
	raw, err := conn.SyscallConn()
	if err != nil {
		return unseen
	}
	var peer *unix.Ucred
	raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if peer == nil || err != nil || peer.Pid == 0 {
		return unseen
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", peer.Pid))
	if err != nil {
		return fmt.Sprintf("pid %d", peer.Pid)
	}
	return fmt.Sprintf("pid %d (%s)", peer.Pid, strings.TrimSpace(string(name)))
}
