package packages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// Recheck is how often the list is looked at though nothing tells of a change. It is read then only if its inode says that it is another.
	Recheck = 2 * time.Second

	// share bounds the part of the time that looks at one guest take: after a look of a millisecond there is none for share milliseconds, and
	// at most for pace.recheck.
	share = 20
)

// pace is how fast things go.
type pace struct {
	// recheck is Recheck.
	recheck time.Duration
	// gap is what lies between two looks at least, so that a burst of changes costs two.
	gap time.Duration
	// lasting is how long there has to be an error before it is told: a list that is being written in place, or whose directory is being
	// replaced, is not worth one.
	lasting time.Duration
	// patience is how long a look may take before it is told that the guest's file system does not answer.
	patience time.Duration
}

var usual = pace{recheck: Recheck, gap: 100 * time.Millisecond, lasting: 500 * time.Millisecond, patience: 5 * time.Second}

// Update is what is known of a guest's list.
type Update struct {
	// Table is the newest complete list that was seen; nil before the first.
	Table *Table
	// Err is why Table may not be the guest's list any more, an error of Read that has lasted for half a second; nil when it is. It is of class
	// errdefs.ErrNotFound before the first boot has written a list, and errdefs.ErrUnavailable also for a file system that does not answer.
	Err error
}

// Follow follows the list of a guest until ctx ends, and then closes the channel. root is the guest's root directory, open in any way
// (O_PATH will do), /proc/PID/root of its first process as a rule; Follow takes it over and closes it. Its end has to be that of the guest,
// or the root keeps the guest's file systems.
//
// A list that is there is delivered at once, the next ones when they have come. Only the newest waits to be received, so a slow receiver
// gets the last of several. An error is told once, and its end too.
//
// Nothing that the guest does makes it wait. If a look at the guest's file system hangs, its goroutine ends when that answers or the guest
// has ended, which may be after the channel was closed.
func (w *Watcher) Follow(ctx context.Context, root *os.File) <-chan Update {
	f := &follower{watcher: w, root: root, wake: make(chan struct{}, 1), updates: make(chan Update), found: make(chan look, 1)}
	w.join(f)
	go f.run(ctx)
	return f.updates
}

// follower follows one guest's list. One goroutine owns it; another one at a time looks for it.
type follower struct {
	watcher *Watcher
	root    *os.File
	updates chan Update
	wake    chan struct{} // holds one
	found   chan look     // holds one

	known memory // the last file that was looked at
	good  *Table // the newest complete list
	told  Update // the last that was, or is to be, delivered
	fresh bool   // told waits to be taken

	looking bool      // the other goroutine has root
	changed bool      // something was told since the last look began
	began   time.Time // when the last look began
	rest    time.Time // before which there is no other
	failing time.Time // since when looks end in errors; zero if the last did not
	refused bool      // a watch was, and it has been logged
}

// look is what a look has found.
type look struct {
	memory
	watches map[int32]struct{}
	refused error // why there is not a watch on every directory
}

// notify tells that something may have changed. It does not block.
func (f *follower) notify() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *follower) run(ctx context.Context) {
	defer f.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var updates chan Update // nil, which takes nothing
		if f.fresh {
			updates = f.updates
		}
		select {
		case <-ctx.Done():
			return
		case updates <- f.told:
			f.fresh = false
		case <-f.wake:
			f.changed = true
			if !f.looking {
				timer.Reset(time.Until(f.rest))
			}
		case found := <-f.found:
			f.looking = false
			timer.Reset(f.take(found))
		case <-timer.C:
			patience := f.watcher.pace.patience
			if f.looking {
				f.tell(fmt.Errorf("look for %s: the guest's file system has not answered for %v: %w", Path, patience, errdefs.ErrUnavailable))
				continue
			}
			f.begin()
			timer.Reset(patience)
		}
	}
}

// end closes what the follower has. A look that hangs closes the rest when it is over.
func (f *follower) end() {
	defer close(f.updates)
	if f.looking {
		go func() {
			<-f.found
			f.close()
		}()
		return
	}
	f.close()
}

func (f *follower) close() {
	f.watcher.leave(f)
	f.root.Close()
}

// begin starts a look.
func (f *follower) begin() {
	f.looking, f.began = true, time.Now()
	again, known := f.changed, f.known
	f.changed = false
	go func() {
		result := look{watches: make(map[int32]struct{})}
		v := visit{root: int(f.root.Fd()), again: again, arm: func(dir int) {
			wd, err := f.watcher.add(f, dir)
			if err != nil {
				result.refused = err
				return
			}
			result.watches[wd] = struct{}{}
		}}
		result.memory = v.look(known)
		f.found <- result
	}()
}

// take takes what a look has found, and returns after what time the next one is due.
func (f *follower) take(found look) time.Duration {
	f.watcher.keep(f, found.watches)
	f.complain(found.refused)
	if found.of != (identity{}) {
		f.known = found.memory
	}
	p := f.watcher.pace
	rest := min(p.recheck, max(p.gap, share*time.Since(f.began)))
	f.rest = time.Now().Add(rest)
	due := p.recheck
	switch {
	case found.err == nil:
		f.failing = time.Time{}
		f.good = found.table
		f.tell(nil)
	case f.failing.IsZero():
		f.failing = time.Now()
		due = max(rest, p.lasting)
	case time.Since(f.failing) < p.lasting:
		due = max(rest, p.lasting-time.Since(f.failing))
	default:
		f.tell(found.err)
	}
	if f.changed {
		return rest
	}
	return due
}

// tell delivers what is not known yet: the newest list, or an error beside it.
func (f *follower) tell(err error) {
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	if f.good == f.told.Table && text(err) == text(f.told.Err) {
		return
	}
	f.told = Update{Table: f.good, Err: err}
	f.fresh = true
}

// complain logs the first of the watches in a row that the host refuses. Other errors come of directories that have just gone.
func (f *follower) complain(err error) {
	refused := errors.Is(err, unix.ENOSPC)
	if refused && !f.refused {
		f.watcher.log.Warn("changes of a phone's packages are seen by the clock (see fs.inotify.max_user_watches)", "every", f.watcher.pace.recheck, "error", err)
	}
	f.refused = refused
}
