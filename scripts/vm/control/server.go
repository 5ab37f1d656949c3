package control

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/yamux"
)

// Handler is what a guest can do. Its methods are called by a goroutine of each stream.
type Handler interface {
	// Exec runs a program, as Client.Exec tells, and returns its code. ctx ends when the host gives the request up.
	Exec(ctx context.Context, req Request, io ExecIO) (int, error)
	// Dial connects to an address.
	Dial(ctx context.Context, network, address string) (net.Conn, error)
	// Put makes or replaces a file by what r brings; an error of r means that not all of it came.
	Put(ctx context.Context, req Request, r io.Reader) error
	// Get writes a file to w.
	Get(ctx context.Context, req Request, w io.Writer) error
	// Clock sets the clock.
	Clock(ctx context.Context, req Request) error
	// Unpack unpacks the payload drive.
	Unpack(ctx context.Context) error
	// Power checks the action and returns what carries it out, which is called after the host has got the result.
	Power(ctx context.Context, action string) (func() error, error)
}

// ExecIO is what a program in the guest is connected to.
type ExecIO struct {
	// Input is what comes for stdin, nil if nothing will.
	Input io.Reader
	// Stdout and Stderr may be written to at the same time.
	Stdout, Stderr io.Writer
	// Resize and Signals bring what the host sends for the terminal and the program, until the context ends.
	Resize  <-chan Size
	Signals <-chan syscall.Signal
}

// Serve waits for the host on conn, which it owns, and serves one session. It returns when the session and all its requests
// have ended, with nil if the host ended it.
func Serve(ctx context.Context, conn io.ReadWriteCloser, guest Guest, handler Handler, log *slog.Logger) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	w := newWire(conn)
	if err := answer(w, guest); err != nil {
		w.Close()
		return err
	}
	mux, err := yamux.Server(w, muxConfig(orDiscard(log)))
	if err != nil {
		w.Close()
		return fmt.Errorf("begin a session with the host: %w", err)
	}
	defer mux.Close()
	session, cancel := context.WithCancel(ctx)
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel()
	for {
		stream, err := mux.AcceptStream()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for a request: %w", err)
		}
		streams.Go(func() { serveStream(session, stream, handler) })
	}
}

// server is one stream being served.
type server struct {
	stream *yamux.Stream
	r      *bufio.Reader
	frames frameWriter
}

func serveStream(ctx context.Context, stream *yamux.Stream, handler Handler) {
	defer stream.Close()
	s := &server{stream: stream, r: bufio.NewReaderSize(stream, chunk+headerSize)}
	s.frames.w = stream
	req, err := readRequest(s.r)
	if err != nil {
		s.frames.result(resultOf(err))
		return
	}
	if req.Op == OpDial {
		s.dial(ctx, req, handler)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if req.Op == OpPower {
		s.power(ctx, req, handler)
		return
	}
	in := newInbox(func(n int) { s.frames.write(frameCredit, binary.BigEndian.AppendUint32(nil, uint32(n))) })
	var reader sync.WaitGroup
	defer reader.Wait()
	// The reader ends with the stream: the host closes it when it has the result, or wants none any more. Then nobody takes what
	// waits to be written.
	reader.Go(func() {
		defer cancel()
		if in.fill(s.r) {
			stream.SetWriteDeadline(time.Unix(1, 0))
		}
	})
	code, err := s.carryOut(ctx, req, in, handler)
	in.ended()
	r := resultOf(err)
	if err == nil {
		r.Code = code
	}
	s.frames.result(r)
}

func (s *server) carryOut(ctx context.Context, req Request, in *inbox, handler Handler) (int, error) {
	switch req.Op {
	case OpExec:
		io := ExecIO{Stdout: s.frames.stream(frameOutput), Stderr: s.frames.stream(frameError), Resize: in.resize, Signals: in.signals}
		if req.Input {
			io.Input = in
		}
		return handler.Exec(ctx, req, io)
	case OpPut:
		return 0, handler.Put(ctx, req, in)
	case OpGet:
		return 0, handler.Get(ctx, req, s.frames.stream(frameOutput))
	case OpClock:
		return 0, handler.Clock(ctx, req)
	case OpUnpack:
		return 0, handler.Unpack(ctx)
	default:
		return 0, fmt.Errorf("request %q is not known: the guest program is older than the host's: %w", req.Op, errdefs.ErrNotImplemented)
	}
}

func (s *server) dial(ctx context.Context, req Request, handler Handler) {
	conn, err := handler.Dial(ctx, req.Network, req.Address)
	if s.frames.result(resultOf(err)) != nil && err == nil {
		conn.Close()
		return
	}
	if err == nil {
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		splice(s.stream, s.r, conn)
	}
}

func (s *server) power(ctx context.Context, req Request, handler Handler) {
	act, err := handler.Power(ctx, req.Action)
	s.frames.result(resultOf(err))
	if err != nil {
		return
	}
	io.Copy(io.Discard, s.r) // until the host has taken the result and closes
	act()
}
