package stream

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/display/displaytest"
	"github.com/phonehost/phonehost/agent/fault"
)

// house is a host with displays that are reached through pipes, so that its time can be that of synctest.
type house struct {
	t      *testing.T
	hub    *Hub
	events []ViewerEvent

	mu      sync.Mutex
	conns   map[string]*display.Conn
	servers map[string]*displaytest.Server
	tell    func(display.Change)
	off     map[string]bool // phones that exist and are off
	watch   sync.WaitGroup
}

// Conn, Subscribe and CheckOn make a house the hub's Displays and Phones.
func (h *house) Conn(id string) (*display.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.conns[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("no display: %w", errdefs.ErrUnavailable)
}

func (h *house) Subscribe(fn func(display.Change)) func() {
	h.tell = fn
	return func() {}
}

func (h *house) CheckOn(id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch off, known := h.off[id]; {
	case !known:
		return fault.New(errdefs.ErrNotFound, fault.NoSuchPhone, "no phone %q", id)
	case off:
		return fault.New(errdefs.ErrFailedPrecondition, fault.NotRunning, "phone %s is off", id)
	}
	return nil
}

// power connects a display for a phone.
func (h *house) power(id string, s *displaytest.Server) *displaytest.Server {
	h.t.Helper()
	ours, theirs := net.Pipe()
	s.ServeConn(theirs)
	conn, err := display.NewConn(h.t.Context(), ours, display.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	h.conns[id], h.servers[id], h.off[id] = conn, s, false
	h.mu.Unlock()
	h.tell(display.Change{Phone: id, Kind: display.Connected, Conn: conn})
	h.watch.Go(func() {
		<-conn.Done()
		h.mu.Lock()
		if h.conns[id] == conn {
			delete(h.conns, id)
		}
		h.mu.Unlock()
		h.tell(display.Change{Phone: id, Kind: display.Lost, Conn: conn, Reason: "crashed"})
		conn.Close()
	})
	return s
}

// kill ends the display of a phone as a crash would.
func (h *house) kill(id string) {
	h.mu.Lock()
	s := h.servers[id]
	delete(h.servers, id)
	h.mu.Unlock()
	s.Close()
	synctest.Wait()
}

// in runs a test with a hub, in a bubble of synctest, on a house where phone "p1" is on.
func in(t *testing.T, f func(t *testing.T, h *house, d *displaytest.Server)) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, conns: make(map[string]*display.Conn), servers: make(map[string]*displaytest.Server), off: make(map[string]bool)}
		hub, err := NewHub(Config{Displays: h, Phones: h, MaxViewers: 3, OnViewer: func(e ViewerEvent) { h.events = append(h.events, e) }})
		if err != nil {
			t.Fatal(err)
		}
		h.hub = hub
		defer func() {
			hub.Shutdown()
			for id := range h.servers {
				h.kill(id)
			}
			h.watch.Wait()
		}()
		f(t, h, h.power("p1", &displaytest.Server{}))
	})
}

// attach attaches a viewer that is closed with the test.
func (h *house) attach(opts AttachOptions) *Viewer {
	h.t.Helper()
	if opts.Phone == "" {
		opts.Phone = "p1"
	}
	if opts.Identity == "" {
		opts.Identity = "client/a"
	}
	v, err := h.hub.Attach(h.t.Context(), opts)
	if err != nil {
		h.t.Fatalf("attach: %v", err)
	}
	return v
}

// next returns what a viewer is told now; it fails the test when there is nothing.
func next(t *testing.T, v *Viewer) Message {
	t.Helper()
	m, ok := poll(t, v)
	if !ok {
		t.Fatal("nothing to tell the viewer")
	}
	return m
}

// poll returns what a viewer is told now, if anything.
func poll(t *testing.T, v *Viewer) (Message, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	m, err := v.Next(ctx)
	if err == context.DeadlineExceeded {
		// What the call of Next set in motion may have brought something.
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
		defer cancel()
		m, err = v.Next(ctx)
	}
	if err == context.DeadlineExceeded {
		return m, false
	}
	if err != nil {
		t.Fatalf("next: %v", err)
	}
	return m, true
}

// packet returns the packet that a viewer is told now, and acknowledges it.
func packet(t *testing.T, v *Viewer) *Packet {
	t.Helper()
	m := next(t, v)
	if m.Packet == nil {
		t.Fatalf("told %+v, want a packet", m)
	}
	if err := v.Ack(m.Packet.Seq); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return m.Packet
}

// commit commits a frame and lets all that follows happen.
func commit(d *displaytest.Server) {
	synctest.Wait()
	d.Commit()
	synctest.Wait()
}

// pass lets time pass.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
