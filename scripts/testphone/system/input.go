package system

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// input reads a caller's standard input until ctx ends. The file may be shared with other processes, so it is not made non-blocking.
type input struct {
	ctx  context.Context
	fd   int
	wake *os.File // readable when ctx has ended
}

// newInput returns the reader and what frees it.
func newInput(ctx context.Context, fd int) (*input, func(), error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { w.Close() })
	free := func() {
		if stop() {
			w.Close()
		}
		r.Close()
	}
	return &input{ctx: ctx, fd: fd, wake: r}, free, nil
}

// Read waits for input or the end of ctx.
func (i *input) Read(b []byte) (int, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(i.fd), Events: unix.POLLIN}, {Fd: int32(i.wake.Fd()), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		case i.ctx.Err() != nil:
			return 0, i.ctx.Err()
		}
		n, err := unix.Read(i.fd, b)
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return 0, err
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}
