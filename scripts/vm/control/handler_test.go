package control

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
)

// handler is a guest whose requests do what a test says. Those of which it says nothing are refused.
type handler struct {
	exec   func(ctx context.Context, req Request, io ExecIO) (int, error)
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	put    func(ctx context.Context, req Request, r io.Reader) error
	get    func(ctx context.Context, req Request, w io.Writer) error
	clock  func(ctx context.Context, req Request) error
	unpack func(ctx context.Context) error
	power  func(ctx context.Context, action string) (func() error, error)
}

func (h handler) Exec(ctx context.Context, req Request, io ExecIO) (int, error) {
	if h.exec == nil {
		return 0, errdefs.ErrNotImplemented
	}
	return h.exec(ctx, req, io)
}

func (h handler) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if h.dial == nil {
		return nil, errdefs.ErrNotImplemented
	}
	return h.dial(ctx, network, address)
}

func (h handler) Put(ctx context.Context, req Request, r io.Reader) error {
	if h.put == nil {
		return errdefs.ErrNotImplemented
	}
	return h.put(ctx, req, r)
}

func (h handler) Get(ctx context.Context, req Request, w io.Writer) error {
	if h.get == nil {
		return errdefs.ErrNotImplemented
	}
	return h.get(ctx, req, w)
}

func (h handler) Clock(ctx context.Context, req Request) error {
	if h.clock == nil {
		return errdefs.ErrNotImplemented
	}
	return h.clock(ctx, req)
}

func (h handler) Unpack(ctx context.Context) error {
	if h.unpack == nil {
		return errdefs.ErrNotImplemented
	}
	return h.unpack(ctx)
}

func (h handler) Power(ctx context.Context, action string) (func() error, error) {
	if h.power == nil {
		return nil, errdefs.ErrNotImplemented
	}
	return h.power(ctx, action)
}

// session is a client and its guest, each of which may be wrapped by a test.
type session struct {
	*Client
	served chan error // takes what Serve returned
}

// begin begins a session of a handler over a pipe. It ends with the test.
func begin(t *testing.T, h Handler) session {
	t.Helper()
	host, guest := pipe()
	return beginOn(t, h, host, guest)
}

func beginOn(t *testing.T, h Handler, host, guest io.ReadWriteCloser) session {
	t.Helper()
	s := session{served: make(chan error, 1)}
	var serving sync.WaitGroup
	serving.Go(func() { s.served <- Serve(t.Context(), guest, Guest{BootID: "boot"}, h, nil) })
	var err error
	if s.Client, err = NewClient(t.Context(), host, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		serving.Wait()
	})
	return s
}
