package control

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// muxConfig returns yamux's settings of both sides. There is no keep-alive and next to no time-out: a guest may stand still
// for as long as the host's other work, a snapshot or a debugger wants, and the end of a machine is an event of its own.
func muxConfig(log *slog.Logger) *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          1024,
		KeepAliveInterval:      time.Hour,
		ConnectionWriteTimeout: time.Hour,
		MaxStreamWindowSize:    4 << 20,
		StreamCloseTimeout:     time.Minute,
		Logger:                 muxLogger{log},
	}
}

// muxLogger puts yamux's messages into a logger: they tell of a session's end, which its owner sees by itself.
type muxLogger struct{ log *slog.Logger }

func (l muxLogger) Print(v ...any)                 { l.log.Debug(strings.TrimSpace(fmt.Sprint(v...))) }
func (l muxLogger) Printf(format string, v ...any) { l.Print(fmt.Sprintf(format, v...)) }
func (l muxLogger) Println(v ...any)               { l.Print(fmt.Sprintln(v...)) }

// outbox makes writes never wait for the port: a peer that stands still would otherwise hold up requests whose context has
// ended, for yamux takes no deadline there. What it holds of a session is bounded by the windows of the open streams.
// It also joins small writes, each of which costs an exit of the guest at a virtio-serial port.
type outbox struct {
	conn io.ReadWriteCloser // its reads are others'

	mu      sync.Mutex
	waiting []byte
	err     error         // of a write, or that of a closed outbox
	wake    chan struct{} // holds a token while waiting or err is news
	done    chan struct{} // closed when the loop has ended
}

func newOutbox(conn io.ReadWriteCloser) *outbox {
	o := &outbox{conn: conn, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go o.loop()
	return o
}

// put takes all parts, unless the outbox is closed or an earlier write went wrong.
func (o *outbox) put(parts ...[]byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	for _, p := range parts {
		o.waiting = append(o.waiting, p...)
	}
	o.notify()
	return nil
}

// offer is put, but drops b while more than enough bytes wait. An error shows in the reads, which end with it.
func (o *outbox) offer(b []byte, enough int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil && len(o.waiting) <= enough {
		o.waiting = append(o.waiting, b...)
		o.notify()
	}
}

func (o *outbox) notify() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// loop writes what waits until an error or Close.
func (o *outbox) loop() {
	defer close(o.done)
	var spare []byte
	for range o.wake {
		o.mu.Lock()
		batch, err := o.waiting, o.err
		o.waiting = spare[:0]
		o.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := o.conn.Write(batch); err != nil {
			o.fail(err)
			o.conn.Close() // so that the session's reader ends too
			return
		}
		if spare = batch; cap(spare) > 1<<20 {
			spare = nil
		}
	}
}

func (o *outbox) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
	o.notify()
}

// Close closes the connection and drops what waits. It returns when nothing is being written any more.
func (o *outbox) Close() error {
	o.fail(net.ErrClosed)
	err := o.conn.Close()
	<-o.done
	return err
}
