package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// port is an open virtio-serial port. The driver gives no bytes and no error to a read while the host is not there, before
// it came as well as after it went. So Read waits, with the runtime's edge-triggered epoll, until it has read something for
// the first time; after that an empty read is the end.
type port struct {
	file *os.File
	raw  syscall.RawConn
	seen bool // used by the one reader
}

// openPort waits for the port of that name and opens it.
func openPort(ctx context.Context, name string) (*port, error) {
	device, err := waitFor(ctx, "virtio-serial port "+name, func() (string, error) {
		return findByAttribute("/sys/class/virtio-ports", "name", name)
	})
	if err != nil {
		return nil, err
	}
	file, err := openDevice(ctx, "/dev/"+device)
	if err != nil {
		return nil, fmt.Errorf("open port %s: %w", name, err)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open port %s: %w", name, err)
	}
	return &port{file: file, raw: raw}, nil
}

// openDevice opens a port's device, which only one file may have open. A child of ours between fork and exec holds what we
// have just closed for a moment more, and nothing tells when it lets go.
func openDevice(ctx context.Context, name string) (*os.File, error) {
	for {
		file, err := os.OpenFile(name, os.O_RDWR|unix.O_NONBLOCK, 0)
		if !errors.Is(err, unix.EBUSY) {
			return file, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (p *port) Read(b []byte) (int, error) {
	var n int
	var err error
	wait := p.raw.Read(func(fd uintptr) bool {
		n, err = ignoringEINTR(unix.Read, int(fd), b)
		return !errors.Is(err, unix.EAGAIN) && (n > 0 || err != nil || p.seen)
	})
	switch {
	case wait != nil:
		return 0, wait
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	p.seen = true
	return n, nil
}

func (p *port) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		var n int
		var err error
		wait := p.raw.Write(func(fd uintptr) bool {
			n, err = ignoringEINTR(unix.Write, int(fd), b[done:])
			return !errors.Is(err, unix.EAGAIN)
		})
		if wait != nil {
			return done, wait
		}
		if err != nil {
			return done, os.NewSyscallError("write", err)
		}
		done += n
	}
	return done, nil
}

// Close ends reads and writes under way.
func (p *port) Close() error {
	p.file.SetDeadline(time.Unix(1, 0))
	return p.file.Close()
}

func ignoringEINTR(call func(int, []byte) (int, error), fd int, b []byte) (int, error) {
	for {
		n, err := call(fd, b)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}
