package display

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// socketName is the name of a display's socket in its control directory.
const socketName = "control.sock"

// Config says where displays are.
type Config struct {
	// Dir holds a directory for every phone; the display of phone ID listens on Dir/ID/display/control.sock.
	Dir string
	// RequestTimeout is how long a display may take to answer; 0 means DefaultRequestTimeout.
	RequestTimeout time.Duration
	// Logger takes what happens to connections; nil means none.
	Logger *slog.Logger
}

// State is what is known of a phone's display.
type State struct {
	// Connected tells whether the display is connected; all else is zero when it is not.
	Connected bool
	// HasContent tells whether a guest has mapped a window and drawn.
	HasContent bool
	// FramesCommitted, FramesChanged and FramesEncoded count since the display started, as of its last report.
	FramesCommitted, FramesChanged, FramesEncoded uint64
	// Version of the display's binary.
	Version string
	// Width and Height of the screen in pixels, and FPS, the rate that its guest is told.
	Width, Height, FPS uint32
}

// ChangeKind says what happened to a phone's display.
type ChangeKind int

const (
	// Connected: hands have been shaken; Change.Conn is the connection.
	Connected ChangeKind = iota + 1
	// Updated: the display reported a new state.
	Updated
	// Lost: the connection has ended without being asked to; it comes back by itself with the display.
	Lost
	// Closed: the display is not wanted any more; nothing follows for this phone until it is tracked again.
	Closed
	// Stopped: the registry shuts down; displays live on.
	Stopped
)

// Change is something that happened to the display of one phone.
type Change struct {
	// Phone is the id.
	Phone string
	// Kind says what.
	Kind ChangeKind
	// Conn is the connection that began, reported or ended; nil for a phone that had none.
	Conn *Conn
	// State after it.
	State State
	// Reason says why a connection ended.
	Reason string
}

// Registry keeps the connections to the displays of all phones. Its methods may be called by any goroutine, except that
// Close and Shutdown must not be called by a subscriber.
type Registry struct {
	config Config
	log    *slog.Logger
	watch  *watcher
	ctx    context.Context // ends with Shutdown
	stop   context.CancelFunc

	mu          sync.Mutex // guards what follows; never held while a subscriber is called
	links       map[string]*link
	subscribers map[int]func(Change)
	nextName    int
}

// NewRegistry returns a registry that tracks no phone yet. It returns errdefs.ErrInvalidArgument without a directory, and
// errdefs.ErrResourceExhausted when the host has no inotify instance left.
func NewRegistry(config Config) (*Registry, error) {
	if !filepath.IsAbs(config.Dir) {
		return nil, fmt.Errorf("displays' directory %q is not an absolute path: %w", config.Dir, errdefs.ErrInvalidArgument)
	}
	w, err := newWatcher()
	if err != nil {
		return nil, err
	}
	r := &Registry{
		config: config, log: config.Logger, watch: w,
		links: make(map[string]*link), subscribers: make(map[int]func(Change)),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r, nil
}

// Shutdown ends all connections and waits until nothing runs. The displays live on.
func (r *Registry) Shutdown() {
	r.stop()
	r.mu.Lock()
	links := make([]*link, 0, len(r.links))
	for _, l := range r.links {
		links = append(links, l)
	}
	clear(r.links)
	r.mu.Unlock()
	for _, l := range links {
		<-l.ended
	}
	r.watch.close()
}

// Track begins to connect to the display of a phone, now or when its socket appears. It is idempotent. It returns
// errdefs.ErrNotFound when the display's directory is not there.
func (r *Registry) Track(id string) error {
	_, err := r.track(id)
	return err
}

func (r *Registry) track(id string) (*link, error) {
	dir := filepath.Join(r.config.Dir, id, "display")
	if filepath.Base(id) != id || strings.ContainsRune("./", rune(id[0])) {
		return nil, fmt.Errorf("track display: %q is not a phone's id: %w", id, errdefs.ErrInvalidArgument)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return nil, fmt.Errorf("track display of phone %s: the agent is stopping: %w", id, errdefs.ErrUnavailable)
	}
	l := r.links[id]
	if l == nil {
		l = newLink(r, id, dir)
		if err := l.arm(); err != nil {
			return nil, fmt.Errorf("track display of phone %s: %w", id, err)
		}
		r.links[id] = l
		go l.run()
		return l, nil
	}
	if err := l.arm(); err != nil {
		return nil, fmt.Errorf("track display of phone %s: %w", id, err)
	}
	return l, nil
}

// WaitReady tracks the phone's display and waits until it is connected. When ctx ends first, the error says what the last
// try met.
func (r *Registry) WaitReady(ctx context.Context, id string) error {
	l, err := r.track(id)
	if err != nil {
		return err
	}
	for {
		conn, changed, last := l.current()
		if conn != nil {
			return nil
		}
		select {
		case <-changed:
		case <-l.ended:
			return fmt.Errorf("wait for display of phone %s: it is not wanted any more: %w", id, errdefs.ErrAborted)
		case <-ctx.Done():
			if last == nil {
				return fmt.Errorf("wait for display of phone %s: no socket has appeared: %w", id, context.Cause(ctx))
			}
			return fmt.Errorf("wait for display of phone %s: %w: last try: %w", id, context.Cause(ctx), last)
		}
	}
}

// State returns what is known of the phone's display. It never waits.
func (r *Registry) State(id string) State {
	if l := r.link(id); l != nil {
		return l.state()
	}
	return State{}
}

// HasContent tells whether a guest has drawn on the phone's display, as it reported last. It never waits.
func (r *Registry) HasContent(id string) bool { return r.State(id).HasContent }

// Refresh asks the display for its state. It returns errdefs.ErrUnavailable while it is not connected.
func (r *Registry) Refresh(ctx context.Context, id string) (State, error) {
	conn, err := r.Conn(id)
	if err != nil {
		return State{}, err
	}
	raw, err := conn.GetState(ctx)
	if err != nil {
		return State{}, fmt.Errorf("phone %s: %w", id, err)
	}
	s := stateOf(conn, raw)
	if l := r.link(id); l != nil {
		l.refreshed(conn, s)
	}
	return s, nil
}

// Conn returns the connection to the phone's display, or errdefs.ErrUnavailable while there is none.
func (r *Registry) Conn(id string) (*Conn, error) {
	if l := r.link(id); l != nil {
		if conn, _, _ := l.current(); conn != nil {
			return conn, nil
		}
	}
	return nil, fmt.Errorf("display of phone %s is not connected: %w", id, errdefs.ErrUnavailable)
}

// Close forgets a phone's display, which is meant to go or to have gone, and waits until nothing of it runs here.
// Subscribers get Closed.
func (r *Registry) Close(id string) {
	r.mu.Lock()
	l := r.links[id]
	r.mu.Unlock()
	if l == nil {
		return
	}
	l.close()
	r.mu.Lock()
	if r.links[id] == l {
		delete(r.links, id)
	}
	r.mu.Unlock()
}

// Connected returns the number of connected displays.
func (r *Registry) Connected() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, l := range r.links {
		if conn, _, _ := l.current(); conn != nil {
			n++
		}
	}
	return n
}

// Subscribe calls fn with every change from now on, in order for each phone, until cancel is called; a call that is under
// way may still end after it. fn must not block and must not call Close, Shutdown or WaitReady.
func (r *Registry) Subscribe(fn func(Change)) (cancel func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nextName++
	name := r.nextName
	r.subscribers[name] = fn
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.subscribers, name)
	}
}

// tell reports a change to the subscribers. Only links call it.
func (r *Registry) tell(c Change) {
	r.mu.Lock()
	fns := make([]func(Change), 0, len(r.subscribers))
	for _, fn := range r.subscribers {
		fns = append(fns, fn)
	}
	r.mu.Unlock()
	for _, fn := range fns {
		fn(c)
	}
}

func (r *Registry) link(id string) *link {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.links[id]
}
