package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// remoteCommand is one command that runs in a guest.
type remoteCommand struct {
	start          *phonehostv1.ExecStart
	stdin          io.Reader // nil for none
	stdout, stderr io.Writer
	resize         <-chan *phonehostv1.TerminalSize // nil for none
}

// run runs the command and returns its exit code. One goroutine carries the input and one the sizes of the terminal; both
// have ended when run returns.
func (c *remoteCommand) run(ctx context.Context, phones phonehostv1.PhoneServiceClient) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	stdin, err := newSource(c.stdin)
	if err != nil {
		cancel()
		return 0, err
	}
	var wg sync.WaitGroup
	defer func() {
		cancel()
		stdin.stop()
		wg.Wait()
		stdin.release()
	}()
	stream, err := phones.Exec(ctx)
	if err != nil {
		return 0, err
	}
	up := &upstream{stream: stream}
	up.send(&phonehostv1.ExecRequest{Message: &phonehostv1.ExecRequest_Start{Start: c.start}})
	wg.Go(func() { up.carry(stdin) })
	wg.Go(func() { up.resizes(ctx, c.resize) })
	return c.receive(stream)
}

// receive writes the command's output until its exit code comes.
func (c *remoteCommand) receive(stream phonehostv1.PhoneService_ExecClient) (int, error) {
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, status.Error(codes.Unavailable, "the agent has ended the call without the command's exit code")
		}
		if err != nil {
			return 0, err
		}
		switch m := answer.GetMessage().(type) {
		case *phonehostv1.ExecResponse_Stdout:
			_, err = c.stdout.Write(m.Stdout)
		case *phonehostv1.ExecResponse_Stderr:
			_, err = c.stderr.Write(m.Stderr)
		case *phonehostv1.ExecResponse_ExitCode:
			return int(m.ExitCode), nil
		}
		if err != nil {
			return 0, fmt.Errorf("write the command's output: %w", err)
		}
	}
}

// upstream is the sending half of an Exec call, shared by those who send.
type upstream struct {
	stream phonehostv1.PhoneService_ExecClient

	mu sync.Mutex // held while sending
}

// send sends a message and says whether the call still takes any; why it does not comes out of Recv.
func (u *upstream) send(m *phonehostv1.ExecRequest) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.stream.Send(m) == nil
}

// carry sends the standard input to its end.
func (u *upstream) carry(stdin io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := stdin.Read(buf)
		if n > 0 && !u.send(&phonehostv1.ExecRequest{Message: &phonehostv1.ExecRequest_Stdin{Stdin: buf[:n]}}) {
			return
		}
		if err != nil {
			u.send(&phonehostv1.ExecRequest{Message: &phonehostv1.ExecRequest_StdinClosed{StdinClosed: true}})
			return
		}
	}
}

// resizes sends the terminal's sizes as they change.
func (u *upstream) resizes(ctx context.Context, sizes <-chan *phonehostv1.TerminalSize) {
	for {
		select {
		case <-ctx.Done():
			return
		case size := <-sizes: // never, when nil
			if !u.send(&phonehostv1.ExecRequest{Message: &phonehostv1.ExecRequest_Resize{Resize: size}}) {
				return
			}
		}
	}
}

// asExit turns the exit code of a command in a guest into phonectl's.
func asExit(code int) error {
	switch {
	case code == 0:
		return nil
	case code > 0 && code <= 125:
		return exitError{code: code}
	}
	return exitError{code: exitFailed, text: fmt.Sprintf("the command ended with exit code %d", code)}
}
