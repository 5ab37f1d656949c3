package nettest

import (
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// patience is how long what must happen may take, on a machine that has much else to do.
const patience = 30 * time.Second

// watch keeps what a link has received.
type watch struct {
	name string

	mu     sync.Mutex
	grown  *sync.Cond
	frames [][]byte
}

// watchLink reads all frames that a link of a namespace receives until the test ends.
func watchLink(t *testing.T, ns netlab.Namespace, link string) *watch {
	t.Helper()
	w := &watch{name: ns.Name + "'s " + link}
	w.grown = sync.NewCond(&w.mu)
	var file *os.File
	err := ns.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "frames of "+w.name)
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { w.read(file) })
	t.Cleanup(func() {
		file.Close()
		reading.Wait()
	})
	return w
}

func (w *watch) read(file *os.File) {
	frame := make([]byte, 1<<17)
	for {
		n, err := file.Read(frame)
		if errors.Is(err, unix.ENETDOWN) {
			continue // the link was down for a moment
		}
		if err != nil {
			return
		}
		w.mu.Lock()
		w.frames = append(w.frames, slices.Clone(frame[:n]))
		w.grown.Broadcast()
		w.mu.Unlock()
	}
}

// find returns the first frame since the last forget that is as asked for, or nil.
func (w *watch) find(is func([]byte) bool) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.look(is)
}

func (w *watch) look(is func([]byte) bool) []byte {
	if i := slices.IndexFunc(w.frames, is); i >= 0 {
		return w.frames[i]
	}
	return nil
}

// await waits for such a frame.
func (w *watch) await(t *testing.T, what string, is func([]byte) bool) []byte {
	t.Helper()
	over := false
	timer := time.AfterFunc(patience, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		over = true
		w.grown.Broadcast()
	})
	defer timer.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if frame := w.look(is); frame != nil {
			return frame
		}
		if over {
			t.Fatalf("%s was not seen on %s, among %d frames", what, w.name, len(w.frames))
		}
		w.grown.Wait()
	}
}

// forget drops what was seen so far.
func (w *watch) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frames = nil
}
