package display

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// watchMask is what can make a socket appear, and what ends a watch.
const watchMask = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_ONLYDIR

// watcher is one inotify instance for all phones: the host's limit of instances is small (128 by default).
type watcher struct {
	file    *os.File
	running sync.WaitGroup

	mu   sync.Mutex // guards what follows
	wake map[int32]func(name string)
}

// newWatcher opens an inotify instance and starts its goroutine.
func newWatcher() (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open inotify instance (see fs.inotify.max_user_instances): %w: %w", err, errdefs.ErrResourceExhausted)
	}
	w := &watcher{file: os.NewFile(uintptr(fd), "inotify"), wake: make(map[int32]func(string))}
	w.running.Add(1)
	go w.run()
	return w, nil
}

// add calls wake with the name of everything that appears in dir, and with "" when something may have been missed or the
// directory has gone. wake must not block. It returns errdefs.ErrNotFound when there is no such directory.
func (w *watcher) add(dir string, wake func(name string)) (int32, error) {
	w.mu.Lock() // until wake is known: the first event must find it
	defer w.mu.Unlock()
	raw, err := w.file.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("watch %s: %w: %w", dir, err, errdefs.ErrUnavailable)
	}
	var wd int
	var added error
	if err := raw.Control(func(fd uintptr) { wd, added = unix.InotifyAddWatch(int(fd), dir, watchMask) }); err != nil {
		return 0, fmt.Errorf("watch %s: %w: %w", dir, err, errdefs.ErrUnavailable)
	}
	if errors.Is(added, unix.ENOENT) || errors.Is(added, unix.ENOTDIR) {
		return 0, fmt.Errorf("watch %s: no such directory: %w", dir, errdefs.ErrNotFound)
	}
	if added != nil {
		return 0, fmt.Errorf("watch %s (see fs.inotify.max_user_watches): %w: %w", dir, added, errdefs.ErrResourceExhausted)
	}
	w.wake[int32(wd)] = wake
	return int32(wd), nil
}

// remove ends a watch.
func (w *watcher) remove(wd int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.wake[wd]; !ok {
		return // the directory has gone, and the watch with it
	}
	delete(w.wake, wd)
	if raw, err := w.file.SyscallConn(); err == nil {
		// An error means that the kernel has dropped the watch already.
		_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(wd)) })
	}
}

// watching tells whether a watch still stands.
func (w *watcher) watching(wd int32) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.wake[wd]
	return ok
}

// close ends the instance and waits for its goroutine.
func (w *watcher) close() {
	w.file.Close()
	w.running.Wait()
}

// run reads events until the instance is closed.
func (w *watcher) run() {
	defer w.running.Done()
	buf := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[unsafe.Offsetof(unix.InotifyEvent{}.Len):]))
			if size > len(b) {
				return
			}
			w.event(b[:size])
			b = b[size:]
		}
	}
}

// event handles one event of the kernel's layout (struct inotify_event and the name behind it).
func (w *watcher) event(b []byte) {
	wd := int32(binary.NativeEndian.Uint32(b[unsafe.Offsetof(unix.InotifyEvent{}.Wd):]))
	mask := binary.NativeEndian.Uint32(b[unsafe.Offsetof(unix.InotifyEvent{}.Mask):])
	name, _, _ := bytes.Cut(b[unix.SizeofInotifyEvent:], []byte{0})

	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0:
		for _, wake := range w.wake {
			wake("")
		}
	case mask&unix.IN_IGNORED != 0:
		wake := w.wake[wd]
		delete(w.wake, wd)
		if wake != nil {
			wake("")
		}
	default:
		if wake := w.wake[wd]; wake != nil && len(name) > 0 {
			wake(filepath.Base(string(name)))
		}
	}
}
