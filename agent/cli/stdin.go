package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// errStopped is what a stopped source returns.
var errStopped = errors.New("reading was stopped")

// source reads a standard input and can be told to stop while it waits for input, so that the goroutine that reads ends
// with its command. Only files can be stopped while they wait; other readers are stopped between two reads. Read is for
// one goroutine, stop for any.
type source struct {
	r    io.Reader
	file *os.File // nil where r is no file

	wakeR, wakeW *os.File
}

func newSource(r io.Reader) (*source, error) {
	s := &source{r: r}
	if s.r == nil {
		s.r = eof{}
	}
	var err error
	if s.wakeR, s.wakeW, err = os.Pipe(); err != nil {
		return nil, fmt.Errorf("pipe to stop reading: %w", err)
	}
	s.file, _ = r.(*os.File)
	return s, nil
}

// Read reads the input; it returns errStopped once stop has been called.
func (s *source) Read(p []byte) (int, error) {
	if err := s.ready(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}

// ready waits until the input can be read without waiting, and fails when the source was stopped.
func (s *source) ready() error {
	fds := []unix.PollFd{{Fd: int32(s.wakeR.Fd()), Events: unix.POLLIN}}
	wait := 0
	if s.file != nil {
		fds = append(fds, unix.PollFd{Fd: int32(s.file.Fd()), Events: unix.POLLIN})
		wait = -1
	}
	for {
		_, err := unix.Poll(fds, wait)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait for input: %w", err)
		case fds[0].Revents != 0:
			return errStopped
		}
		return nil
	}
}

// stop makes the present and every later Read return.
func (s *source) stop() { s.wakeW.Close() }

// release gives the pipe back; Read must not be called any more.
func (s *source) release() { s.wakeR.Close() }

// eof is an empty input.
type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
