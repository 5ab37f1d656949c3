package resolver

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// watcher reads the files of the state and the host's resolv.conf when they change.
type watcher struct {
	server *Server
	notify *fsnotify.Watcher
}

// watch begins to watch. What changed between New and now is read.
func (s *Server) watch() (*watcher, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	w := &watcher{server: s, notify: notify}
	// Files are replaced by rename, so their directories are watched.
	for _, dir := range []string{s.cfg.State, filepath.Dir(s.cfg.ResolvConf)} {
		if err := notify.Add(dir); err != nil {
			w.close()
			return nil, fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	s.rules.Store(s.rules.Load().read(s.cfg.State, s.log))
	s.readHost()
	return w, nil
}

func (w *watcher) close() { _ = w.notify.Close() }

// run follows changes until ctx ends. Only its goroutine changes the server's rules.
func (w *watcher) run(ctx context.Context) {
	s := w.server
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-w.notify.Errors:
			// Events may be lost: everything is looked at.
			s.log.Warn("watch files", "error", err)
			s.rules.Store(s.rules.Load().read(s.cfg.State, s.log))
			s.readHost()
		case event := <-w.notify.Events:
			state, host := w.concerns(event, false, false)
			for more := true; more; { // what has come meanwhile is read at once
				select {
				case event = <-w.notify.Events:
					state, host = w.concerns(event, state, host)
				default:
					more = false
				}
			}
			if state {
				s.rules.Store(s.rules.Load().read(s.cfg.State, s.log))
			}
			if host {
				s.readHost()
			}
		}
	}
}

// concerns adds to what is to be read anew what an event is about.
func (w *watcher) concerns(e fsnotify.Event, state, host bool) (bool, bool) {
	if !e.Has(fsnotify.Create) && !e.Has(fsnotify.Write) && !e.Has(fsnotify.Rename) {
		return state, host
	}
	cfg := w.server.cfg
	return state || filepath.Dir(e.Name) == filepath.Clean(cfg.State), host || e.Name == filepath.Clean(cfg.ResolvConf)
}
