package hub

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// tcpPair returns both ends of a TCP connection, which knows half-close as streams of sessions do.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialed.Close(); _ = accepted.Close() })
	return dialed.(*net.TCPConn), accepted.(*net.TCPConn)
}

// spliced returns the outer ends of two connections that are spliced, and what waits for the splice to end.
func spliced(t *testing.T) (left, right *net.TCPConn, wait func()) {
	t.Helper()
	left, a := tcpPair(t)
	right, b := tcpPair(t)
	var running sync.WaitGroup
	running.Go(func() { splice(a, b) })
	return left, right, running.Wait
}

func TestSpliceHalfClose(t *testing.T) {
	t.Parallel()
	left, right, wait := spliced(t)
	question := bytes.Repeat([]byte("question"), 100000)
	var asking sync.WaitGroup
	asking.Go(func() {
		if _, err := left.Write(question); err != nil {
			t.Error(err)
		}
		if err := left.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	if got, err := io.ReadAll(right); err != nil || !bytes.Equal(got, question) {
		t.Fatalf("read %d bytes, %v; want %d", len(got), err, len(question))
	}
	asking.Wait()
	// One direction has ended, the other goes on.
	if _, err := right.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if err := right.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(left); err != nil || string(got) != "answer" {
		t.Fatalf("read %q, %v", got, err)
	}
	wait()
}

// TestSpliceBreaks resets one side: the other side ends too.
func TestSpliceBreaks(t *testing.T) {
	t.Parallel()
	left, right, wait := spliced(t)
	if _, err := left.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(right, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := left.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := right.Read(make([]byte, 1)); err == nil || n != 0 {
		t.Errorf("the other side read %d bytes, %v", n, err)
	}
	wait()
	if _, err := left.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write = %v", err)
	}
}
