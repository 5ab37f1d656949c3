package control

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
)

// inputWindow is how many bytes of input the host may send beyond those that were taken. It keeps a program that does not
// read from holding up the signals, and the end of the stream, that come behind its input.
const inputWindow = 1 << 20

// inbox takes apart the frames that come for a program or a file. Read gives the input.
type inbox struct {
	resize  chan Size
	signals chan syscall.Signal
	gone    chan struct{}   // closed when nobody reads any more
	credit  func(taken int) // tells the host that it may send more

	mu    sync.Mutex
	news  sync.Cond
	input []byte
	err   error // what Read returns after input
	taken int   // not told to the host
}

func newInbox(credit func(int)) *inbox {
	in := &inbox{resize: make(chan Size), signals: make(chan syscall.Signal), gone: make(chan struct{}), credit: credit}
	in.news.L = &in.mu
	return in
}

// Read waits for input. After the last of it comes io.EOF, or io.ErrUnexpectedEOF if the host went away before its end.
func (in *inbox) Read(p []byte) (int, error) {
	in.mu.Lock()
	for len(in.input) == 0 && in.err == nil {
		in.news.Wait()
	}
	n := copy(p, in.input)
	in.input = in.input[n:]
	in.taken += n
	told := 0
	if in.taken >= inputWindow/4 {
		told, in.taken = in.taken, 0
	}
	err := in.err
	in.mu.Unlock()
	if told > 0 {
		in.credit(told)
	}
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, err
}

// put appends input; it reports whether the host kept to its credit.
func (in *inbox) put(p []byte) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.news.Broadcast()
	if in.err != nil {
		return true // nobody reads it any more
	}
	in.input = append(in.input, p...)
	return len(in.input) <= inputWindow
}

// end is what Read returns after the input; the first one counts.
func (in *inbox) end(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.news.Broadcast()
	if in.err == nil {
		in.err = err
	}
}

// ended says that nobody reads any more.
func (in *inbox) ended() {
	close(in.gone)
	in.end(io.ErrClosedPipe)
}

// fill reads frames until the stream ends or a frame is none of the host's, and reports whether the stream ended. The input
// ends with an empty frame.
func (in *inbox) fill(r io.Reader) (ended bool) {
	defer in.end(io.ErrUnexpectedEOF)
	buf := make([]byte, chunk)
	for {
		f, err := readFrame(r, buf)
		if err != nil {
			return !errors.Is(err, errdefs.ErrInvalidArgument)
		}
		switch {
		case f.kind == frameInput && len(f.payload) == 0:
			in.end(io.EOF)
		case f.kind == frameInput:
			if !in.put(f.payload) {
				return false
			}
		case f.kind == frameResize && len(f.payload) == 4:
			select {
			case in.resize <- decodeSize(f.payload):
			case <-in.gone:
			}
		case f.kind == frameSignal && len(f.payload) == 1:
			select {
			case in.signals <- syscall.Signal(f.payload[0]):
			case <-in.gone:
			}
		default:
			return false
		}
	}
}

func (s Size) encode() []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, s.Columns), s.Rows)
}

func decodeSize(p []byte) Size {
	return Size{binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:])}
}

// credits is the host's count of the input that it may send.
type credits struct {
	mu     sync.Mutex
	news   sync.Cond
	left   int
	closed bool
}

func newCredits() *credits {
	c := &credits{left: inputWindow}
	c.news.L = &c.mu
	return c
}

// take waits for credit and returns how many of n bytes may be sent, 0 when the call has ended.
func (c *credits) take(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.left == 0 && !c.closed {
		c.news.Wait()
	}
	if c.closed {
		return 0
	}
	n = min(n, c.left)
	c.left -= n
	return n
}

func (c *credits) grant(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left += n
	c.news.Broadcast()
}

func (c *credits) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.news.Broadcast()
}
