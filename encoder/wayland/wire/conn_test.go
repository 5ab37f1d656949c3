package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	word   = &Message{Interface: "test", Name: "word", Opcode: 1, Params: []Param{{Name: "n", Kind: KindUint}}}
	withFD = &Message{Interface: "test", Name: "with_fd", Opcode: 2, Params: []Param{{Name: "n", Kind: KindUint}, {Name: "fd", Kind: KindFD}}}
	blob   = &Message{Interface: "test", Name: "blob", Opcode: 3, Params: []Param{{Name: "b", Kind: KindArray}}}
)

// pair returns the two ends of a connection as sockets.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.UnixConn)
	}
	return conn(fds[0]), conn(fds[1])
}

func newConn(t *testing.T, sock *net.UnixConn, queue int) *Conn {
	t.Helper()
	c, err := NewConn(sock, queue)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); c.Release() })
	return c
}

func openFDs(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestMessagesInOrder(t *testing.T) {
	as, bs := pair(t)
	a, b := newConn(t, as, 1<<16), newConn(t, bs, 1<<16)
	for i := range uint32(3000) {
		if err := a.Send(5, word, Uint(i)); err != nil {
			t.Fatal(err)
		}
		if err := a.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint32(3000) {
		h, body, err := b.Next()
		if err != nil {
			t.Fatal(err)
		}
		args, err := b.Decode(nil, word, body)
		if err != nil || h.Object != 5 || h.Opcode != 1 || args[0].Uint() != i {
			t.Fatalf("message %d is %+v %v, %v", i, h, args, err)
		}
	}
	if b.Buffered() {
		t.Error("something is left in the buffer")
	}
}

func TestDescriptorsTravelInOrder(t *testing.T) {
	as, bs := pair(t)
	a, b := newConn(t, as, 1<<16), newConn(t, bs, 1<<16)
	before := openFDs(t)
	const n = 60 // more than two sendmsgs carry
	for i := range n {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		if err := a.Send(1, withFD, Uint(uint32(i)), FD(int(r.Fd()))); err != nil {
			t.Fatal(err)
		}
		r.Close()
		w.Close()
	}
	if err := a.Flush(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		_, body, err := b.Next()
		if err != nil {
			t.Fatal(err)
		}
		args, err := b.Decode(nil, withFD, body)
		if err != nil {
			t.Fatal(err)
		}
		var got [1]byte
		if _, err := unix.Read(args[1].FD(), got[:]); err != nil || got[0] != byte(i) {
			t.Fatalf("descriptor %d gave %d, %v", i, got[0], err)
		}
		if flags, err := unix.FcntlInt(uintptr(args[1].FD()), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d is inherited by children (%d, %v)", i, flags, err)
		}
		CloseFDs(args)
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

func TestTooManyDescriptorsAtOnce(t *testing.T) {
	as, bs := pair(t)
	b := newConn(t, bs, 1<<16)
	before := openFDs(t)
	msg, err := Append(nil, 1, word, Uint(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := as.WriteMsgUnix(msg, unix.UnixRights(make([]int, MaxFDsPerSend+1)...), nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Next(); !errors.Is(err, ErrFDs) {
		t.Errorf("got %v, want ErrFDs", err)
	}
	b.Release()
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

func TestUnclaimedDescriptors(t *testing.T) {
	as, bs := pair(t)
	b := newConn(t, bs, 1<<16)
	msg, err := Append(nil, 1, word, Uint(1))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, _, err := as.WriteMsgUnix(msg, unix.UnixRights(make([]int, MaxFDsPerSend)...), nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, _, err := b.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := b.Next(); !errors.Is(err, ErrFDs) {
		t.Errorf("got %v, want ErrFDs", err)
	}
}

func TestPeerThatNeverReads(t *testing.T) {
	as, bs := pair(t)
	a := newConn(t, as, 1<<16)
	var err error
	for range 1000 { // 4 MB: far beyond what a socket holds
		if err = a.Send(1, blob, Array(make([]byte, 4000))); err != nil {
			break
		}
		if err = a.Flush(); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrQueueFull) {
		t.Fatalf("got %v, want ErrQueueFull", err)
	}
	if err := a.Send(1, word, Uint(1)); !errors.Is(err, ErrQueueFull) {
		t.Errorf("a broken connection takes messages: %v", err)
	}
	bs.Close()
}

func TestQueueDrainsWhenPeerReads(t *testing.T) {
	as, bs := pair(t)
	a, b := newConn(t, as, 1<<20), newConn(t, bs, 1<<16)
	const n = 200 // 800 kB: more than the socket holds, less than the queue
	for i := range n {
		if err := a.Send(uint32(i+1), blob, Array(make([]byte, 4000))); err != nil {
			t.Fatal(err)
		}
		if err := a.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if a.Queued() == 0 {
		t.Fatal("the socket took everything; the test tests nothing")
	}
	for i := range n {
		if h, _, err := b.Next(); err != nil || h.Object != uint32(i+1) {
			t.Fatalf("message %d is %+v, %v", i, h, err)
		}
	}
}

func TestCloseWhileBackedUp(t *testing.T) {
	as, _ := pair(t)
	a := newConn(t, as, 1<<20)
	for range 200 {
		if err := a.Send(1, blob, Array(make([]byte, 4000))); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Flush(); err != nil {
		t.Fatal(err)
	}
	a.Close() // returns only when the draining goroutine has ended
	if err := a.Send(1, word, Uint(1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
}

func TestEndOfStream(t *testing.T) {
	tests := map[string]struct {
		bytes []byte
		want  error
	}{
		"between messages": {nil, io.EOF},
		"in a header":      {[]byte{1, 0, 0}, io.ErrUnexpectedEOF},
		"in a body":        {[]byte{1, 0, 0, 0, 0, 0, 12, 0, 1}, io.ErrUnexpectedEOF},
		"bad length":       {[]byte{1, 0, 0, 0, 0, 0, 5, 0}, ErrMalformed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			as, bs := pair(t)
			b := newConn(t, bs, 1<<16)
			if _, err := as.Write(tt.bytes); err != nil {
				t.Fatal(err)
			}
			as.Close()
			if _, _, err := b.Next(); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func BenchmarkSendNext(b *testing.B) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		b.Fatal(err)
	}
	var conns [2]*Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
		if conns[i], err = NewConn(c.(*net.UnixConn), 1<<16); err != nil {
			b.Fatal(err)
		}
		defer conns[i].Close()
	}
	var args []Value
	b.ReportAllocs()
	for b.Loop() {
		if err := conns[0].Send(1, word, Uint(1)); err != nil {
			b.Fatal(err)
		}
		if err := conns[0].Flush(); err != nil {
			b.Fatal(err)
		}
		_, body, err := conns[1].Next()
		if err != nil {
			b.Fatal(err)
		}
		if args, err = conns[1].Decode(args[:0], word, body); err != nil {
			b.Fatal(err)
		}
	}
}
