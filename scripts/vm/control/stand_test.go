package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"
)

// drained waits until all that was written has been read.
func (q *queue) drained() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.data) > 0 {
		q.news.Wait()
	}
}

// TestGuestThatStandsStill has a guest stop for good within what it sends: a request ends with its context all the same.
func TestGuestThatStandsStill(t *testing.T) {
	for name, bytes := range map[string]int{
		"in a record's header": 2, "in a frame's header": recordHeader + 5, "behind a frame's header": recordHeader + 12, "in a payload": 50_000,
	} {
		t.Run(name, func(t *testing.T) { testStandsStill(t, bytes) })
	}
}

func testStandsStill(t *testing.T, passed int) {
	host, guest := pipe()
	slow := &cutter{ReadWriteCloser: guest, left: 1 << 20}
	stalls := make(chan struct{})
	s := beginOn(t, handler{exec: func(_ context.Context, _ Request, streams ExecIO) (int, error) {
		io.WriteString(streams.Stdout, "ready")
		if _, err := streams.Input.Read(make([]byte, 1)); err != nil {
			return 0, err
		}
		slow.pass(passed)
		close(stalls)
		_, err := streams.Stdout.Write(bytes.Repeat([]byte("x"), chunk))
		return 0, err
	}}, host, slow)
	why := errors.New("it stands still")
	ctx, cancel := context.WithCancelCause(t.Context())
	input, more := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := s.Exec(ctx, Command{Args: []string{"x"}, Stdin: input, Stdout: writerFunc(func(p []byte) (int, error) {
			go more.Write([]byte("x"))
			return len(p), nil
		})})
		ended <- err
	}()
	<-stalls
	slow.passed()
	guest.out.drained()
	cancel(why)
	select {
	case err := <-ended:
		if !errors.Is(err, why) {
			t.Errorf("got %v, want the context's cause", err)
		}
	case <-time.After(time.Minute):
		t.Error("the request does not end with its context")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }
