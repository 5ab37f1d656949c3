package control

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/yamux"
)

// Client is the host's side of one session. It is safe for concurrent use.
type Client struct {
	guest Guest
	mux   *yamux.Session
}

// NewClient begins a session on conn, the host's end of the port, which it owns from then on: it is closed also on an error.
// The end of ctx ends only the handshake. A nil log discards.
func NewClient(ctx context.Context, conn io.ReadWriteCloser, log *slog.Logger) (*Client, error) {
	w := newWire(conn)
	guest, err := greet(ctx, w)
	if err != nil {
		w.Close()
		return nil, err
	}
	mux, err := yamux.Client(w, muxConfig(orDiscard(log)))
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("begin a session with the guest: %w", err)
	}
	return &Client{guest: guest, mux: mux}, nil
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// Guest returns what the guest said of itself.
func (c *Client) Guest() Guest { return c.guest }

// Done is closed when the session has ended.
func (c *Client) Done() <-chan struct{} { return c.mux.CloseChan() }

// Close ends the session and what runs in it. The guest waits for the next one.
func (c *Client) Close() error { return c.mux.Close() }

// call is one request under way.
type call struct {
	stream  *yamux.Stream
	frames  frameWriter
	credits *credits
	stop    func() bool
}

// begin opens a stream for a request. When ctx ends, its reads and writes end too.
func (c *Client) begin(ctx context.Context, req Request) (*call, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", req.Op, context.Cause(ctx))
	}
	stream, err := c.mux.OpenStream()
	if err != nil {
		return nil, lost(req.Op, err)
	}
	call := &call{stream: stream, frames: frameWriter{w: stream}, credits: newCredits()}
	call.stop = context.AfterFunc(ctx, func() { stream.SetDeadline(time.Unix(1, 0)) })
	if err := writeRequest(stream, req); err != nil {
		call.end()
		if errors.Is(err, errdefs.ErrInvalidArgument) {
			return nil, err
		}
		return nil, c.failed(ctx, req.Op, err)
	}
	return call, nil
}

// end gives the stream up, if it has not ended by itself.
func (c *call) end() {
	c.stop()
	c.credits.close()
	c.stream.Close()
}

// failed returns the error of a request whose stream failed with err: the reason why ctx ended, or the loss of the session.
func (c *Client) failed(ctx context.Context, op Op, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op, context.Cause(ctx))
	}
	if errors.Is(err, errdefs.ErrInvalidArgument) {
		return fmt.Errorf("%s: %w", op, err)
	}
	return lost(op, err)
}

func lost(op Op, err error) error {
	return fmt.Errorf("%s: the guest went away: %v: %w", op, err, errdefs.ErrUnavailable)
}

// finish reads the frames of a call up to its result. Bytes of the program go to out and errs.
func (c *Client) finish(ctx context.Context, call *call, op Op, out, errs io.Writer) (int, error) {
	buf := make([]byte, chunk)
	for {
		f, err := readFrame(call.stream, buf)
		if err != nil {
			return -1, c.failed(ctx, op, err)
		}
		switch f.kind {
		case frameOutput:
			_, err = out.Write(f.payload)
		case frameError:
			_, err = errs.Write(f.payload)
		case frameCredit:
			if len(f.payload) == 4 {
				call.credits.grant(int(binary.BigEndian.Uint32(f.payload)))
			}
		case frameResult:
			var r result
			if err := json.Unmarshal(f.payload, &r); err != nil {
				return -1, fmt.Errorf("%s: decode the guest's result: %v: %w", op, err, errdefs.ErrUnavailable)
			}
			return r.Code, r.err()
		default:
			err = fmt.Errorf("frame of kind %d is none of the guest's: %w", f.kind, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return -1, fmt.Errorf("%s: take what the guest sent: %w", op, err)
		}
	}
}

// simple carries out a request that has no input and no output.
func (c *Client) simple(ctx context.Context, req Request) error {
	call, err := c.begin(ctx, req)
	if err != nil {
		return err
	}
	defer call.end()
	_, err = c.finish(ctx, call, req.Op, io.Discard, io.Discard)
	return err
}

// Exec runs a program and returns its exit code, or 128 and the number of the signal that ended it. An error means that it
// was not started or that its end is not known: errdefs.ErrNotFound and ErrPermissionDenied are the guest's, ErrUnavailable
// the loss of the guest. When ctx ends, the program's process group is killed.
//
// Exec returns when the program has ended and what it wrote until then has been delivered, even if children of it live on;
// what they write after that is lost.
func (c *Client) Exec(ctx context.Context, cmd Command) (int, error) {
	if len(cmd.Args) == 0 {
		return -1, fmt.Errorf("exec: a command without arguments: %w", errdefs.ErrInvalidArgument)
	}
	call, err := c.begin(ctx, Request{Op: OpExec, Args: cmd.Args, Env: cmd.Env, Dir: cmd.Dir, User: cmd.User, Terminal: cmd.Terminal, Input: cmd.Stdin != nil, Merge: same(cmd.Stdout, cmd.Stderr)})
	if err != nil {
		return -1, err
	}
	defer call.end()
	done := make(chan struct{})
	var events sync.WaitGroup
	defer events.Wait()
	defer close(done)
	events.Go(func() { call.events(cmd, done) })
	if cmd.Stdin != nil {
		go func() { // not waited for: see Command.Stdin
			if call.input(cmd.Stdin) != nil {
				call.frames.write(frameInput, nil)
			}
		}()
	}
	out, errs := cmd.Stdout, cmd.Stderr
	if out == nil {
		out = io.Discard
	}
	if errs == nil {
		errs = io.Discard
	}
	return c.finish(ctx, call, OpExec, out, errs)
}

// same reports whether two writers are one; those of a type that cannot be compared are not.
func same(a, b io.Writer) bool {
	if a == nil || b == nil || !reflect.TypeOf(a).Comparable() || !reflect.TypeOf(b).Comparable() {
		return false
	}
	return a == b
}

// input sends what r has, and its end, while the call lasts. It returns r's error, after which the program's input does not
// end but is broken off with the call.
func (c *call) input(r io.Reader) error {
	buf := make([]byte, chunk)
	for {
		n, err := r.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			may := c.credits.take(len(rest))
			if may == 0 || c.frames.write(frameInput, rest[:may]) != nil {
				return nil // finish tells why
			}
			rest = rest[may:]
		}
		if err == io.EOF {
			c.frames.write(frameInput, nil)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// events sends sizes and signals until done is closed.
func (c *call) events(cmd Command, done <-chan struct{}) {
	resize, signals := cmd.Resize, cmd.Signals
	for {
		var err error
		select {
		case <-done:
			return
		case size, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			err = c.frames.write(frameResize, size.encode())
		case signal, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			err = c.frames.write(frameSignal, []byte{byte(signal)})
		}
		if err != nil {
			return
		}
	}
}

// Put writes a file of the guest, made with its directories or replaced at once when all of it has come.
func (c *Client) Put(ctx context.Context, path string, mode fs.FileMode, r io.Reader) error {
	call, err := c.begin(ctx, Request{Op: OpPut, Path: path, Mode: mode})
	if err != nil {
		return err
	}
	defer call.end()
	var read error
	var input sync.WaitGroup
	input.Go(func() {
		if read = call.input(r); read != nil {
			call.stream.Close()
		}
	})
	_, err = c.finish(ctx, call, OpPut, io.Discard, io.Discard)
	call.credits.close()
	input.Wait()
	if read != nil {
		err = read
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", path, err)
	}
	return nil
}

// Get writes a file of the guest to w.
func (c *Client) Get(ctx context.Context, path string, w io.Writer) error {
	call, err := c.begin(ctx, Request{Op: OpGet, Path: path})
	if err != nil {
		return err
	}
	defer call.end()
	if _, err := c.finish(ctx, call, OpGet, w, io.Discard); err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	return nil
}

// SetClock sets the guest's clock to now and mixes seed into its random numbers, of which resumed snapshots would otherwise
// all have the same.
func (c *Client) SetClock(ctx context.Context, now time.Time, seed []byte) error {
	return c.simple(ctx, Request{Op: OpClock, Time: now.UnixNano(), Seed: seed})
}

// Unpack replaces /run/payload by what is on the payload drive.
func (c *Client) Unpack(ctx context.Context) error { return c.simple(ctx, Request{Op: OpUnpack}) }

// Power turns the guest off or reboots it in order: action is PowerOff or Reboot. It returns when the guest has taken the
// request; the loss of the guest after that is the request's success.
func (c *Client) Power(ctx context.Context, action string) error {
	return c.simple(ctx, Request{Op: OpPower, Action: action})
}
