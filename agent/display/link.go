package display

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// Back-off between tries that met something else than an absent display.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// link keeps one phone's display connected. Its goroutine is run; ended is closed when it has returned.
type link struct {
	registry *Registry
	id       string
	dir      string
	ctx      context.Context
	cancel   context.CancelFunc
	ended    chan struct{}
	appeared chan struct{}         // holds one token after a socket may have appeared
	reported chan *displayv1.State // holds the newest state that the display sent by itself

	mu      sync.Mutex // guards what follows
	wd      int32
	armed   bool
	conn    *Conn         // nil while there is none
	last    State         // of conn
	lastErr error         // what the last try met
	changed chan struct{} // closed, and made anew, when conn or lastErr changes
}

func newLink(r *Registry, id, dir string) *link {
	l := &link{
		registry: r, id: id, dir: dir,
		ended:    make(chan struct{}),
		appeared: make(chan struct{}, 1),
		reported: make(chan *displayv1.State, 1),
		changed:  make(chan struct{}),
	}
	l.ctx, l.cancel = context.WithCancel(r.ctx)
	return l
}

// arm makes sure that the directory is watched: a directory that was removed and made again needs a new watch.
func (l *link) arm() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.armed && l.registry.watch.watching(l.wd) {
		return nil
	}
	wd, err := l.registry.watch.add(l.dir, l.wake)
	if err != nil {
		return err
	}
	l.wd, l.armed = wd, true
	l.wake(socketName) // it may have been there before the watch
	return nil
}

// wake is called by the watcher.
func (l *link) wake(name string) {
	if name != socketName && name != "" {
		return
	}
	select {
	case l.appeared <- struct{}{}:
	default:
	}
}

// close ends the link and waits for it.
func (l *link) close() {
	l.cancel()
	<-l.ended
}

// current returns the connection, a channel that is closed when something changes, and what the last try met.
func (l *link) current() (*Conn, <-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn, l.changed, l.lastErr
}

func (l *link) state() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// run connects, watches over the connection, and connects again, until the link is closed.
func (l *link) run() {
	defer close(l.ended)
	defer l.disarm()
	for backoff := minBackoff; l.ctx.Err() == nil; {
		// The watch ends with its directory. One that was made again by now is watched anew; one that is not is watched by
		// the next Track, which comes after the making.
		if err := l.arm(); err != nil {
			l.registry.log.Debug("display's directory not watched", "phone_id", l.id, "error", err)
		}
		conn, file, state, err := l.connect()
		if err != nil {
			l.set(nil, State{}, err)
			backoff = l.rest(absent(err), backoff)
			continue
		}
		began := time.Now()
		l.set(conn, state, nil)
		l.registry.log.Info("display connected", "phone_id", l.id, "version", state.Version)
		l.registry.tell(Change{Phone: l.id, Kind: Connected, Conn: conn, State: state})
		reason := l.attend(conn, file)
		l.set(nil, State{}, reason)
		if l.ctx.Err() != nil {
			break
		}
		l.registry.log.Warn("display lost", "phone_id", l.id, "error", reason)
		l.registry.tell(Change{Phone: l.id, Kind: Lost, Conn: conn, Reason: reason.Error()})
		if time.Since(began) > maxBackoff || errors.Is(reason, errReplaced) {
			backoff = minBackoff
			continue
		}
		backoff = l.rest(false, backoff)
	}
	kind, reason := Closed, "the display is not wanted any more"
	if l.registry.ctx.Err() != nil {
		kind, reason = Stopped, "the agent is stopping"
	}
	l.registry.tell(Change{Phone: l.id, Kind: kind, Reason: reason})
}

// errReplaced ends a connection whose display still answers, when another display has taken its place.
var errReplaced = errors.New("another display has taken its place")

// absent tells that nobody listens: only an event can change that.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// rest waits for a socket to appear, or for the back-off unless only an event helps; it returns the next back-off.
func (l *link) rest(event bool, backoff time.Duration) time.Duration {
	var after <-chan time.Time
	if !event {
		after = time.After(backoff)
	}
	select {
	case <-l.ctx.Done():
	case <-l.appeared:
		return minBackoff
	case <-after:
	}
	return min(2*backoff, maxBackoff)
}

// connect shakes hands with the display and asks for its state. file is the socket that it listens on.
func (l *link) connect() (conn *Conn, file os.FileInfo, s State, err error) {
	select {
	case <-l.reported: // by the connection before, which has ended
	default:
	}
	path := filepath.Join(l.dir, socketName)
	if file, err = os.Lstat(path); err != nil {
		return nil, nil, State{}, fmt.Errorf("look for display: %w", err)
	}
	opts := Options{RequestTimeout: l.registry.config.RequestTimeout, OnState: l.report, Logger: l.registry.log}
	if conn, err = Dial(l.ctx, path, opts); err != nil {
		return nil, nil, State{}, err
	}
	raw, err := conn.GetState(l.ctx)
	if err != nil {
		conn.Close()
		return nil, nil, State{}, err
	}
	return conn, file, stateOf(conn, raw), nil
}

// attend keeps the state of conn up to date until it ends or is replaced, closes it, and says why.
func (l *link) attend(conn *Conn, file os.FileInfo) error {
	defer conn.Close()
	for {
		select {
		case <-l.ctx.Done():
			return context.Cause(l.ctx)
		case <-conn.Done():
			return conn.Err()
		case raw := <-l.reported:
			s := stateOf(conn, raw)
			l.set(conn, s, nil)
			l.registry.tell(Change{Phone: l.id, Kind: Updated, Conn: conn, State: s})
		case <-l.appeared:
			now, err := os.Lstat(filepath.Join(l.dir, socketName))
			if err == nil && !os.SameFile(file, now) {
				return errReplaced
			}
		}
	}
}

// report is called by a connection's reader; the newest state wins.
func (l *link) report(s *displayv1.State) {
	select {
	case <-l.reported:
	default:
	}
	select {
	case l.reported <- s:
	default: // a report of the connection before has come between; the next one tells the same
	}
}

// set publishes what is known now.
func (l *link) set(conn *Conn, s State, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = s
	if conn == l.conn && err == nil && l.lastErr == nil {
		return
	}
	l.conn, l.lastErr = conn, err
	close(l.changed)
	l.changed = make(chan struct{})
}

// refreshed takes a state that was asked for, if conn is still the connection.
func (l *link) refreshed(conn *Conn, s State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == conn {
		l.last = s
	}
}

// disarm ends the watch of the directory.
func (l *link) disarm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.registry.watch.remove(l.wd)
}

func stateOf(conn *Conn, s *displayv1.State) State {
	h := conn.Hello()
	return State{
		Connected: true, HasContent: s.GetHasContent(),
		FramesCommitted: s.GetFramesCommitted(), FramesChanged: s.GetFramesChanged(), FramesEncoded: s.GetFramesEncoded(),
		Version: h.Build, Width: h.Width, Height: h.Height, FPS: h.FPS,
	}
}
