package nameserver

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// DefaultResolvConf is where a host says which name servers it asks.
const DefaultResolvConf = "/etc/resolv.conf"

// lookAgain is the time between two looks at a link that leads nowhere, as before the resolver that is to write its target has started.
const lookAgain = 10 * time.Second

// WatchResolvConf tells where a resolv.conf leads to: at once, and whenever that has become another file, as when the link is replaced. What is
// written into the file is no change, nor are links behind the first. A link that leads nowhere is "", and is looked at every 10 s.
//
// The channel is closed when the context has ended.
func WatchResolvConf(ctx context.Context, path string) (<-chan string, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	// The link is replaced by rename, so its directory is watched.
	if err := notify.Add(filepath.Dir(path)); err != nil {
		_ = notify.Close()
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	leads := make(chan string)
	go func() {
		defer close(leads)
		defer notify.Close()
		follow(ctx, path, notify, leads)
	}()
	return leads, nil
}

func follow(ctx context.Context, path string, notify *fsnotify.Watcher, leads chan<- string) {
	for told, last := false, ""; ; {
		now, err := filepath.EvalSymlinks(path)
		var again <-chan time.Time
		if err != nil {
			now, again = "", time.After(lookAgain)
		}
		if !told || now != last {
			select {
			case leads <- now:
				told, last = true, now
			case <-ctx.Done():
				return
			}
		}
		for looking := true; looking; {
			select {
			case e := <-notify.Events:
				looking = filepath.Base(e.Name) != filepath.Base(path)
			case <-notify.Errors: // events may be lost
				looking = false
			case <-again:
				looking = false
			case <-ctx.Done():
				return
			}
		}
	}
}
