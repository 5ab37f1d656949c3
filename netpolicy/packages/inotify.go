package packages

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watchMask is what changes the entries of a directory, or the directory itself. A file written in place counts when it is closed.
const watchMask = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_CLOSE_WRITE |
	unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// pause is what lies between two reads of the queue: however fast a guest fills it, emptying it costs little. What does not fit is
// an overflow, which is one event.
const pause = 5 * time.Millisecond

// Watcher is one inotify instance for all phones: the host's limit of instances is small (128 by default), and guests whose root is the
// host's share it. It may be used by several goroutines.
type Watcher struct {
	log     *slog.Logger
	pace    pace
	queue   *os.File // nil where the host has no instance left: Follow looks every Recheck
	running sync.WaitGroup

	mu        sync.Mutex // guards what follows
	control   int        // another descriptor of the instance, for adding and removing
	closed    bool
	followers map[*follower]struct{}
	watches   map[int32]map[*follower]struct{}
	// adding counts the calls that add a watch. They run without mu, for the guest's file system may hold them; meanwhile a number that the
	// kernel has given may not be known yet, and idle ones are not removed.
	adding int
	idle   map[int32]struct{}
}

// NewWatcher opens an instance and starts its goroutine. Where the host has none left (fs.inotify.max_user_instances), which log is told,
// the Watcher does without. The caller closes it.
func NewWatcher(log *slog.Logger) *Watcher {
	w := &Watcher{
		log: log, pace: usual, control: -1,
		followers: make(map[*follower]struct{}), watches: make(map[int32]map[*follower]struct{}), idle: make(map[int32]struct{}),
	}
	if err := w.open(); err != nil {
		log.Warn("the lists of the phones' packages are looked at by the clock", "every", Recheck, "error", err)
	}
	return w
}

func (w *Watcher) open() error {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open an inotify instance (see fs.inotify.max_user_instances): %w", err)
	}
	control, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("open an inotify instance: %w", err)
	}
	w.queue, w.control = os.NewFile(uintptr(fd), "inotify"), control
	w.running.Add(1)
	go w.run()
	return nil
}

// Close ends the instance and waits for its goroutine. What Follow follows is then looked at every Recheck.
func (w *Watcher) Close() {
	w.mu.Lock()
	w.closed = true
	w.closeControl()
	w.mu.Unlock()
	if w.queue != nil {
		w.queue.Close()
	}
	w.running.Wait()
}

// closeControl closes the second descriptor when nobody needs it any more. The caller holds mu.
func (w *Watcher) closeControl() {
	if w.closed && w.adding == 0 && w.control >= 0 {
		unix.Close(w.control)
		w.control = -1
	}
}

// errNoInstance means that changes are seen by looking only.
var errNoInstance = errors.New("there is no inotify instance")

// add has f woken by changes of an open directory, and returns the watch's number. It may wait for the guest's file system.
func (w *Watcher) add(f *follower, dir int) (int32, error) {
	w.mu.Lock()
	if w.closed || w.control < 0 {
		w.mu.Unlock()
		return 0, errNoInstance
	}
	w.adding++
	control := w.control
	w.mu.Unlock()

	wd, err := unix.InotifyAddWatch(control, "/proc/self/fd/"+strconv.Itoa(dir), watchMask)

	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		of := w.watches[int32(wd)]
		if of == nil {
			of = make(map[*follower]struct{})
			w.watches[int32(wd)] = of
		}
		of[f] = struct{}{}
	}
	w.adding--
	w.removeIdle()
	w.closeControl()
	return int32(wd), err
}

// keep ends those watches of f that are not among the given ones.
func (w *Watcher) keep(f *follower, keep map[int32]struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for wd, of := range w.watches {
		if _, ok := keep[wd]; ok {
			continue
		}
		if _, ok := of[f]; ok {
			delete(of, f)
			w.idle[wd] = struct{}{}
		}
	}
	w.removeIdle()
}

// removeIdle removes watches that nobody has, unless somebody may be getting one of them. The caller holds mu.
func (w *Watcher) removeIdle() {
	if w.adding > 0 {
		return
	}
	for wd := range w.idle {
		if of, known := w.watches[wd]; known && len(of) == 0 {
			delete(w.watches, wd)
			if w.control >= 0 {
				_, _ = unix.InotifyRmWatch(w.control, uint32(wd)) // an error means that the kernel has dropped it already
			}
		}
	}
	clear(w.idle)
}

// join and leave begin and end a follower's part in the Watcher.
func (w *Watcher) join(f *follower) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.followers[f] = struct{}{}
}

func (w *Watcher) leave(f *follower) {
	w.keep(f, nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.followers, f)
}

// run reads events until the instance is closed.
func (w *Watcher) run() {
	defer w.running.Done()
	buf := make([]byte, 64<<10)
	for {
		n, err := w.queue.Read(buf)
		if err != nil {
			return // closed
		}
		w.dispatch(buf[:n])
		time.Sleep(pause)
	}
}

// dispatch wakes those whom events concern. They have the kernel's layout: struct inotify_event and the name behind it.
func (w *Watcher) dispatch(events []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[unsafe.Offsetof(unix.InotifyEvent{}.Len):]))
		if size > len(events) {
			return
		}
		w.event(events[:size])
		events = events[size:]
	}
}

func (w *Watcher) event(b []byte) {
	wd := int32(binary.NativeEndian.Uint32(b[unsafe.Offsetof(unix.InotifyEvent{}.Wd):]))
	mask := binary.NativeEndian.Uint32(b[unsafe.Offsetof(unix.InotifyEvent{}.Mask):])
	name, _, _ := bytes.Cut(b[unix.SizeofInotifyEvent:], []byte{0})
	concerned := w.watches[wd]
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0:
		concerned = w.followers
	case mask&unix.IN_IGNORED != 0:
		delete(w.watches, wd) // the directory or its file system is gone, and the watch with it
	case len(name) > 0 && !onTheWay(string(name)):
		return
	}
	for f := range concerned {
		f.notify()
	}
}

// onTheWay tells whether an entry of that name, in any of the directories, may be part of the way to the list.
func onTheWay(name string) bool { return name == dataDir || name == systemDir || name == listFile }
