package api

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/phone"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/container"
)

const (
	// maxChunk is the most bytes of one message of output, input or log lines.
	maxChunk = 64 << 10
	// maxArgs is the most bytes of a command, its arguments and its environment together.
	maxArgs = 128 << 10
	// maxSide is the most columns or rows of a terminal.
	maxSide = 65535
)

type execStream = grpc.BidiStreamingServer[phonehostv1.ExecRequest, phonehostv1.ExecResponse]

func (s *phoneServer) Exec(stream execStream) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return statusError(fault.Field("start", "must be what the first message carries"))
	}
	snap, err := s.cfg.Phones.Get(start.GetPhoneId())
	if err != nil {
		return statusError(err)
	}
	if snap.Status != phone.Running && snap.Status != phone.Starting {
		return statusError(fault.New(errdefs.ErrFailedPrecondition, fault.NotRunning, "phone %s is %s", start.GetPhoneId(), snap.Status))
	}
	opts, err := execOptions(start, snap)
	if err != nil {
		return statusError(err)
	}
	return statusError(s.exec(stream, start.GetPhoneId(), opts))
}

// execOptions checks the command of a caller.
func execOptions(m *phonehostv1.ExecStart, snap phone.Snapshot) (container.ExecOptions, error) {
	opts := container.ExecOptions{
		Args: m.GetArgs(), Env: m.GetEnv(), Cwd: m.GetCwd(), UID: m.GetUid(), Terminal: m.GetTerminal(),
	}
	if len(opts.Args) == 0 && opts.Terminal {
		kind, err := snap.Profile()
		if err != nil {
			return opts, err
		}
		opts.Args = kind.Shell
	}
	if len(opts.Args) == 0 || opts.Args[0] == "" {
		return opts, fault.Field("start.args", "must name a command")
	}
	size := 0
	for _, word := range append(append([]string{opts.Cwd}, opts.Args...), opts.Env...) {
		size += len(word) + 1
		if strings.ContainsRune(word, 0) {
			return opts, fault.Field("start.args", "must hold no zero bytes")
		}
	}
	if size > maxArgs {
		return opts, fault.Field("start.args", "%d bytes are more than %d", size, maxArgs)
	}
	for _, v := range opts.Env {
		if i := strings.IndexByte(v, '='); i <= 0 {
			return opts, fault.Field("start.env", "%q must be NAME=VALUE", v)
		}
	}
	if m.GetSize() != nil {
		terminal, err := sizeOf("start.size", m.GetSize())
		if err != nil {
			return opts, err
		}
		opts.Width, opts.Height = terminal.Width, terminal.Height
	}
	return opts, nil
}

func sizeOf(field string, m *phonehostv1.TerminalSize) (container.Size, error) {
	columns, rows := m.GetColumns(), m.GetRows()
	if columns < 1 || columns > maxSide || rows < 1 || rows > maxSide {
		return container.Size{}, fault.Field(field, "%d x %d must be 1..%d each", columns, rows, maxSide)
	}
	return container.Size{Width: uint16(columns), Height: uint16(rows)}, nil
}

// exec runs the command with the call as its terminal. A caller that breaks the protocol ends the command.
//
// The goroutine that receives cannot be waited for here: gRPC lets go of it when the handler returns. It ends at once then, since
// its stream and its pipe do.
func (s *phoneServer) exec(stream execStream, id string, opts container.ExecOptions) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	stdin, input := io.Pipe()
	defer stdin.Close()
	resize := make(chan container.Size, 1)
	opts.Stdin, opts.Resize = stdin, resize
	out := &execOutput{stream: stream}
	opts.Stdout = execWriter(func(b []byte) error {
		return out.send(&phonehostv1.ExecResponse{Message: &phonehostv1.ExecResponse_Stdout{Stdout: b}})
	})
	opts.Stderr = execWriter(func(b []byte) error {
		return out.send(&phonehostv1.ExecResponse{Message: &phonehostv1.ExecResponse_Stderr{Stderr: b}})
	})
	go func() {
		if err := receiveInput(stream, input, resize); err != nil {
			cancel(err)
		}
	}()
	code, err := s.cfg.Guests.Exec(ctx, id, opts)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		return err
	}
	return out.send(&phonehostv1.ExecResponse{Message: &phonehostv1.ExecResponse_ExitCode{ExitCode: int32(code)}})
}

// receiveInput hands what the caller sends to the command, until the caller has no more (nil) or breaks the protocol.
func receiveInput(stream execStream, input *io.PipeWriter, resize chan container.Size) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return input.Close()
		}
		if err != nil {
			return errors.Join(err, input.CloseWithError(err))
		}
		switch v := m.GetMessage().(type) {
		case *phonehostv1.ExecRequest_Stdin:
			if len(v.Stdin) > maxChunk {
				return fault.Field("stdin", "%d bytes are more than %d", len(v.Stdin), maxChunk)
			}
			// A command that no longer reads is not the caller's mistake: what it does not take is dropped.
			_, _ = input.Write(v.Stdin)
		case *phonehostv1.ExecRequest_StdinClosed:
			_ = input.Close()
		case *phonehostv1.ExecRequest_Resize:
			size, err := sizeOf("resize", v.Resize)
			if err != nil {
				return err
			}
			select {
			case <-resize: // the newest size wins
			default:
			}
			resize <- size
		default:
			return fault.Field("message", "after the first, messages carry stdin, stdin_closed or resize")
		}
	}
}

// execOutput serialises what goes to the caller: standard output and error come from two goroutines.
type execOutput struct {
	stream execStream
	mu     sync.Mutex
}

func (o *execOutput) send(m *phonehostv1.ExecResponse) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stream.Send(m)
}

// execWriter sends what is written in chunks.
type execWriter func([]byte) error

func (w execWriter) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		chunk := p[n:min(n+maxChunk, len(p))]
		if err := w(chunk); err != nil {
			return n, err
		}
		n += len(chunk)
	}
	return len(p), nil
}
