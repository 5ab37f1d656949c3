// Package qmp is a client of QEMU's machine protocol: JSON objects, one a line, of which those with "return" or "error" answer
// a command and those with "event" come by themselves.
// https://www.qemu.org/docs/master/interop/qmp-spec.html
//
// A Client has one goroutine that reads, which Close waits for; events are delivered by it. Its methods may be called by any
// number of goroutines.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Event is what QEMU tells by itself.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// Error is QEMU's answer to a command that it did not carry out.
type Error struct {
	Command string `json:"-"`
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

func (e *Error) Error() string { return fmt.Sprintf("QEMU refused %s: %s", e.Command, e.Desc) }

// Client is a connection to one QEMU.
type Client struct {
	conn   *net.UnixConn
	events func(Event)
	done   chan struct{} // closed when the reader has ended

	sending chan struct{} // holds a token while a command is written

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan answer
	err     error // why the connection ended
}

type answer struct {
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
}

// message is any line of QEMU's.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	ID       uint64          `json:"id"`
	Event
	answer
}

// maxLine bounds a line of QEMU's; the longest that we ask for is some KiB.
const maxLine = 16 << 20

// New begins a conversation on conn, which the client owns, also on an error. events is called for each event in their order
// and must not wait for commands.
func New(ctx context.Context, conn *net.UnixConn, events func(Event)) (*Client, error) {
	c := &Client{conn: conn, events: events, done: make(chan struct{}), sending: make(chan struct{}, 1), waiting: make(map[uint64]chan answer)}
	greeted := make(chan struct{})
	go c.read(greeted)
	select {
	case <-greeted:
	case <-c.done:
		return nil, fmt.Errorf("wait for QEMU's greeting: %w", c.ended())
	case <-ctx.Done():
		c.Close()
		return nil, fmt.Errorf("wait for QEMU's greeting: %w", context.Cause(ctx))
	}
	if err := c.Call(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Call carries out a command; args and result may be nil. The error is an *Error if QEMU refused it, and ErrUnavailable if
// the connection ended.
func (c *Client) Call(ctx context.Context, command string, args, result any) error {
	return c.call(ctx, command, args, result, nil)
}

// SendFile gives QEMU a file under a name, by which a later command may use it ("fd:NAME"). The file stays the caller's.
func (c *Client) SendFile(ctx context.Context, name string, file *os.File) error {
	return c.call(ctx, "getfd", map[string]string{"fdname": name}, nil, file)
}

func (c *Client) call(ctx context.Context, command string, args, result any, file *os.File) error {
	answers := make(chan answer, 1)
	c.mu.Lock()
	c.last++
	id := c.last
	c.waiting[id] = answers
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	if err := c.send(ctx, id, command, args, file); err != nil {
		return err
	}
	var a answer
	select {
	case a = <-answers:
	case <-ctx.Done():
		return fmt.Errorf("QEMU's %s: %w", command, context.Cause(ctx))
	case <-c.done:
		select {
		case a = <-answers: // it came before the end
		default:
			return fmt.Errorf("QEMU's %s: %w", command, c.ended())
		}
	}
	if a.Error != nil {
		a.Error.Command = command
		return a.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(a.Return, result); err != nil {
		return fmt.Errorf("decode what QEMU returned for %s: %w", command, err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, id uint64, command string, args any, file *os.File) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, id})
	if err != nil {
		return fmt.Errorf("encode QEMU's %s: %w", command, err)
	}
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	select {
	case c.sending <- struct{}{}:
		defer func() { <-c.sending }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return fmt.Errorf("QEMU's %s: %w", command, context.Cause(ctx))
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		c.conn.SetWriteDeadline(time.Unix(1, 0))
	})
	n, err := c.write(append(line, '\n'), rights)
	if !stop() {
		<-interrupted
		c.conn.SetWriteDeadline(time.Time{}) // the next command has a context of its own
	}
	if err == nil {
		return nil
	}
	if n > 0 {
		c.conn.Close() // part of a line was sent: nothing more can be said
	}
	if ctx.Err() != nil {
		return fmt.Errorf("QEMU's %s: %w", command, context.Cause(ctx))
	}
	return fmt.Errorf("QEMU's %s: %v: %w", command, err, errdefs.ErrUnavailable)
}

// write writes all of line, or returns how much of it was. The rights go with its first byte.
func (c *Client) write(line, rights []byte) (int, error) {
	n, _, err := c.conn.WriteMsgUnix(line, rights, nil)
	if err != nil || n == len(line) {
		return n, err
	}
	rest, err := c.conn.Write(line[n:])
	return n + rest, err
}

// read takes QEMU's lines until the connection ends.
func (c *Client) read(greeted chan<- struct{}) {
	defer close(c.done)
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			c.end(fmt.Errorf("decode QEMU's line %.200q: %w", lines.Bytes(), err))
			c.conn.Close()
			return
		}
		switch {
		case m.Greeting != nil:
			if greeted != nil {
				close(greeted)
				greeted = nil
			}
		case m.Name != "":
			c.events(m.Event)
		default:
			c.mu.Lock()
			if w := c.waiting[m.ID]; w != nil {
				w <- m.answer // holds one, and an id is answered once
				delete(c.waiting, m.ID)
			}
			c.mu.Unlock()
		}
	}
	c.end(lines.Err())
	c.conn.Close()
}

func (c *Client) end(err error) {
	if err == nil {
		err = errors.New("QEMU closed the connection")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = fmt.Errorf("%v: %w", err, errdefs.ErrUnavailable)
}

func (c *Client) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection. QEMU goes on.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}
