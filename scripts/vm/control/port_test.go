package control

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// queue is one direction of a port: bytes that were written and not read. At most limit of them wait, if it is not 0.
type queue struct {
	limit int

	mu    sync.Mutex
	news  sync.Cond
	data  []byte
	ended bool // by the writer
	gone  bool // the reader
}

func newQueue(limit int) *queue {
	q := &queue{limit: limit}
	q.news.L = &q.mu
	return q
}

func (q *queue) Write(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for done := 0; done < len(p); {
		if q.ended || q.gone {
			return done, net.ErrClosed
		}
		n := len(p) - done
		if q.limit > 0 {
			n = min(n, q.limit-len(q.data))
		}
		q.data = append(q.data, p[done:done+n]...)
		done += n
		q.news.Broadcast()
		if n == 0 {
			q.news.Wait()
		}
	}
	return len(p), nil
}

func (q *queue) Read(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.data) == 0 && !q.ended && !q.gone {
		q.news.Wait()
	}
	if q.gone {
		return 0, net.ErrClosed
	}
	n := copy(p, q.data)
	q.data = q.data[n:]
	q.news.Broadcast()
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// set changes the state.
func (q *queue) set(change func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	change()
	q.news.Broadcast()
}

// end is one end of a pair of queues. Closing it ends both.
type end struct{ in, out *queue }

func (e end) Read(p []byte) (int, error)  { return e.in.Read(p) }
func (e end) Write(p []byte) (int, error) { return e.out.Write(p) }
func (e end) Close() error {
	e.in.set(func() { e.in.gone = true })
	e.out.set(func() { e.out.ended = true })
	return nil
}

// pipe returns two ends of a connection, each direction of which holds some KiB.
func pipe() (host, guest end) {
	down, up := newQueue(32<<10), newQueue(32<<10)
	return end{up, down}, end{down, up}
}

// port is a virtio-serial port at its worst: the guest sees no host go or come, and what lies in the port when the guest closes it is
// lost.
type port struct {
	mu       sync.Mutex
	toGuest  *queue
	fromHost *queue // what the present host reads
}

func newPort() *port { return &port{toGuest: newQueue(0), fromHost: newQueue(0)} }

// open opens the guest's end.
func (p *port) open() io.ReadWriteCloser {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.toGuest = newQueue(0)
	return guestEnd{p, p.toGuest}
}

// guestEnd is the port as opened once.
type guestEnd struct {
	port *port
	in   *queue
}

func (g guestEnd) Read(p []byte) (int, error) { return g.in.Read(p) }

func (g guestEnd) Write(p []byte) (int, error) {
	g.port.mu.Lock()
	host := g.port.fromHost
	g.port.mu.Unlock()
	host.Write(p) // what is written while no host is there is lost
	return len(p), nil
}

func (g guestEnd) Close() error {
	g.in.set(func() { g.in.gone = true })
	return nil
}

// dial begins a new host's connection.
func (p *port) dial() io.ReadWriteCloser {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fromHost = newQueue(0)
	return hostEnd{p, p.fromHost}
}

type hostEnd struct {
	port *port
	in   *queue
}

func (h hostEnd) Read(p []byte) (int, error) { return h.in.Read(p) }

func (h hostEnd) Write(p []byte) (int, error) {
	h.port.mu.Lock()
	guest := h.port.toGuest
	h.port.mu.Unlock()
	guest.Write(p) // what is written while the guest has the port closed is lost
	return len(p), nil
}

func (h hostEnd) Close() error {
	h.in.set(func() { h.in.gone = true })
	return nil
}

// echo returns a guest's session that sends back what comes: after the handshake it takes any bytes, as yamux does within a frame.
func echo(guest Guest) func(context.Context, io.ReadWriteCloser) error {
	return func(ctx context.Context, conn io.ReadWriteCloser) error {
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		w := newWire(conn)
		defer w.Close()
		if err := answer(w, guest); err != nil {
			return err
		}
		_, err := io.Copy(struct{ io.Writer }{w}, struct{ io.Reader }{w})
		return err
	}
}

// serve attends to session after session, as package guest does, until the test stops it.
func (p *port) serve(t *testing.T, attend func(context.Context, io.ReadWriteCloser) error) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	first := p.open()
	serving.Go(func() {
		for conn := first; ctx.Err() == nil; conn = p.open() {
			t.Logf("session ended: %v", attend(ctx, conn))
		}
	})
	return func() {
		cancel()
		serving.Wait()
	}
}

// meets asserts that a host on conn comes to a session, within limit of the test's clock, and that the session works.
func meets(t *testing.T, conn io.ReadWriteCloser, limit time.Duration) (*wire, Guest) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	w := newWire(conn)
	t.Cleanup(func() { w.Close() })
	guest, err := greet(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	const said = "the first record"
	if _, err := io.WriteString(w, said); err != nil {
		t.Fatal(err)
	}
	heard := make([]byte, len(said))
	if _, err := io.ReadFull(w, heard); err != nil || string(heard) != said {
		t.Fatalf("sent back: %q, %v, want %q", heard, err, said)
	}
	return w, guest
}

// cutter passes on what is written up to a number of bytes. The rest is lost.
type cutter struct {
	io.ReadWriteCloser
	mu   sync.Mutex
	left int
	cut  chan struct{} // closed when the last of them has been passed on; nil before pass
}

// pass passes on n bytes from now on, and returns how many were left.
func (c *cutter) pass(n int) (left int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	left, c.left, c.cut = c.left, n, make(chan struct{})
	return left
}

func (c *cutter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 {
		return len(p), nil
	}
	n := min(len(p), c.left)
	if _, err := c.ReadWriteCloser.Write(p[:n]); err != nil {
		return 0, err
	}
	if c.left -= n; c.left == 0 && c.cut != nil {
		close(c.cut)
	}
	return len(p), nil
}

// passed waits until the last byte has been passed on.
func (c *cutter) passed() { <-c.cut }

// editor changes the lines of the handshake that are written. What begins with a record passes as it is.
type editor struct {
	io.ReadWriteCloser
	edit func(line string) string
	mu   sync.Mutex
	rest []byte
}

func (e *editor) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rest = append(e.rest, p...)
	var out []byte
	for len(e.rest) > 0 {
		end := bytes.IndexByte(e.rest, '\n')
		if e.rest[0] == 0 {
			end = len(e.rest) - 1
		}
		if end < 0 {
			break
		}
		piece := e.rest[:end+1]
		if bytes.HasPrefix(piece, []byte(protocol)) {
			piece = []byte(e.edit(string(piece)))
		}
		out = append(out, piece...)
		e.rest = e.rest[end+1:]
	}
	if _, err := e.ReadWriteCloser.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
