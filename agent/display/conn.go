package display

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// Version is the version of the protocol that this package speaks. Displays of any version from Version-2 on are driven:
// the protocol changes only by addition.
const Version = 1

const (
	// DefaultRequestTimeout is how long a display may take to answer.
	DefaultRequestTimeout = 5 * time.Second
	// WriteTimeout is how long a display may leave what was sent to it unread.
	WriteTimeout = 5 * time.Second
	// maxOutbox bounds what waits to be written, in bytes.
	maxOutbox = 1 << 20
	// readBuffer is what one read of the socket takes, in bytes: most packets whole.
	readBuffer = 32 << 10
)

// Hello is what a display says of itself when a connection begins.
type Hello struct {
	// Version of the protocol that it speaks.
	Version uint32
	// Features it has beyond that version.
	Features []string
	// Build is the version of its binary.
	Build string
	// Width and Height of its screen in pixels.
	Width, Height uint32
	// FPS is the refresh rate that its guest is told, in frames per second.
	FPS uint32
}

// Options says how to use a connection. Its zero value is useful.
type Options struct {
	// RequestTimeout is how long the display may take to answer; 0 means DefaultRequestTimeout.
	RequestTimeout time.Duration
	// OnState is called by the reader with every state that the display sends by itself. It must not block. May be nil.
	OnState func(*displayv1.State)
	// Logger takes what is odd but harmless; nil means none.
	Logger *slog.Logger
}

// Conn is one connection to one display, hands shaken. Its methods may be called by any goroutine.
type Conn struct {
	nc      net.Conn
	hello   Hello
	timeout time.Duration
	onState func(*displayv1.State)
	log     *slog.Logger
	done    chan struct{} // closed with err set
	written chan struct{} // holds one token while the outbox may hold something
	running sync.WaitGroup

	mu       sync.Mutex // guards what follows
	err      error
	outbox   []byte
	requests uint64
	pending  map[uint64]*call
	names    uint32
	levels   map[uint32]*Level
}

// call is a request that waits for its answer.
type call struct {
	answer  chan *displayv1.ServerMessage // of capacity 1
	picture []byte                        // screenshot so far; used by the reader only
}

// Dial connects to the display whose socket is at path. Errors are of class errdefs.ErrUnavailable when nobody listens
// there or the display does not answer, errdefs.ErrFailedPrecondition when it speaks a version that cannot be driven.
func Dial(ctx context.Context, path string, opts Options) (*Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to display: %w: %w", err, errdefs.ErrUnavailable)
	}
	return NewConn(ctx, nc, opts)
}

// NewConn shakes hands with the display at the other end of nc, which it owns from then on. Errors are those of Dial.
func NewConn(ctx context.Context, nc net.Conn, opts Options) (*Conn, error) {
	c := &Conn{
		nc:      nc,
		timeout: opts.RequestTimeout,
		onState: opts.OnState,
		log:     opts.Logger,
		done:    make(chan struct{}),
		written: make(chan struct{}, 1),
		pending: make(map[uint64]*call),
		levels:  make(map[uint32]*Level),
	}
	if c.timeout <= 0 {
		c.timeout = DefaultRequestTimeout
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	in := &messageReader{r: bufio.NewReaderSize(nc, readBuffer)}
	if err := c.shake(ctx, in); err != nil {
		nc.Close()
		return nil, err
	}
	c.running.Add(2)
	go c.read(in)
	go c.write()
	return c, nil
}

// shake exchanges hellos within the time of a request.
func (c *Conn) shake(ctx context.Context, in *messageReader) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	hello, err := AppendMessage(nil, &displayv1.ClientMessage{Request: 1, Message: &displayv1.ClientMessage_Hello{
		Hello: &displayv1.ClientHello{Version: Version},
	}})
	if err != nil {
		return err
	}
	var answer displayv1.ServerMessage
	if _, err = c.nc.Write(hello); err == nil {
		err = in.read(&answer)
	}
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("shake hands with display: %w: %w", cause, errdefs.ErrUnavailable)
	}
	if err != nil {
		return fmt.Errorf("shake hands with display: %w: %w", err, errdefs.ErrUnavailable)
	}
	if !stop() {
		return fmt.Errorf("shake hands with display: %w: %w", context.DeadlineExceeded, errdefs.ErrUnavailable)
	}
	return c.take(&answer)
}

// take checks the display's hello and keeps it.
func (c *Conn) take(answer *displayv1.ServerMessage) error {
	h := answer.GetHello()
	switch {
	case answer.GetError() != nil:
		return fmt.Errorf("shake hands with display: refused: %s: %w", answer.GetError().GetMessage(), errdefs.ErrFailedPrecondition)
	case h == nil:
		return fmt.Errorf("shake hands with display: the first answer is not a hello: %w", errdefs.ErrFailedPrecondition)
	case h.GetVersion() == 0 || h.GetVersion()+2 < Version:
		return fmt.Errorf("shake hands with display: it speaks version %d, versions from %d on are driven: %w",
			h.GetVersion(), max(1, Version-2), errdefs.ErrFailedPrecondition)
	case h.GetWidth() == 0 || h.GetHeight() == 0 || h.GetWidth() > 1<<14 || h.GetHeight() > 1<<14 || h.GetFps() == 0:
		return fmt.Errorf("shake hands with display: impossible screen %dx%d@%d: %w",
			h.GetWidth(), h.GetHeight(), h.GetFps(), errdefs.ErrFailedPrecondition)
	}
	c.hello = Hello{
		Version: h.GetVersion(), Features: h.GetFeatures(), Build: h.GetBuild(),
		Width: h.GetWidth(), Height: h.GetHeight(), FPS: h.GetFps(),
	}
	c.requests = 1
	return nil
}

// Hello returns what the display said of itself.
func (c *Conn) Hello() Hello { return c.hello }

// Done is closed when the connection has ended; Err then says why.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns why the connection ended, of class errdefs.ErrUnavailable, or nil while it lasts.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection and waits for its goroutines. It must not be called by the reader's callbacks.
func (c *Conn) Close() {
	c.end(net.ErrClosed)
	c.running.Wait()
}

// end closes the connection for cause; the first cause stays.
func (c *Conn) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	if errors.Is(cause, io.EOF) {
		cause = errors.New("the display closed the connection")
	}
	c.err = fmt.Errorf("connection to display: %w: %w", cause, errdefs.ErrUnavailable)
	c.outbox = nil
	close(c.done)
	c.nc.Close()
}

// send puts a message into the outbox. It never blocks.
func (c *Conn) send(m *displayv1.ClientMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sendLocked(m)
}

func (c *Conn) sendLocked(m *displayv1.ClientMessage) error {
	if c.err != nil {
		return c.err
	}
	b, err := AppendMessage(c.outbox, m)
	if err != nil {
		return err
	}
	if len(b) > maxOutbox {
		return fmt.Errorf("send to display: %d bytes wait to be read by it: %w", len(c.outbox), errdefs.ErrUnavailable)
	}
	c.outbox = b
	select {
	case c.written <- struct{}{}:
	default:
	}
	return nil
}

// write empties the outbox until the connection ends.
func (c *Conn) write() {
	defer c.running.Done()
	var spare []byte
	for {
		select {
		case <-c.done:
			return
		case <-c.written:
		}
		c.mu.Lock()
		batch := c.outbox
		c.outbox = spare[:0]
		c.mu.Unlock()
		c.nc.SetWriteDeadline(time.Now().Add(WriteTimeout))
		if _, err := c.nc.Write(batch); err != nil {
			c.end(fmt.Errorf("write: %w", err))
			return
		}
		spare = batch
	}
}

// read hands out what the display sends until the connection ends.
func (c *Conn) read(in *messageReader) {
	defer c.running.Done()
	for {
		m := new(displayv1.ServerMessage)
		err := in.read(m)
		if err == nil {
			err = c.dispatch(m)
		}
		if err != nil {
			c.end(err)
			return
		}
	}
}

// dispatch handles one message; an error ends the connection.
func (c *Conn) dispatch(m *displayv1.ServerMessage) error {
	switch {
	case m.GetPacket() != nil:
		return c.packet(m.GetPacket())
	case m.GetLevelFailed() != nil:
		c.failed(m.GetLevelFailed())
		return nil
	case m.GetRequest() != 0:
		return c.answered(m)
	case m.GetState() != nil:
		if c.onState != nil {
			c.onState(m.GetState())
		}
		return nil
	default:
		c.log.Debug("display sent a message that is not known here")
		return nil
	}
}
