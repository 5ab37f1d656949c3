package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/phonehost/phonehost/agent/fault"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/container"
)

func TestRunCommand(t *testing.T) {
	s := start(t)
	s.on(t, "p1")
	s.create(t, "off")
	s.guests.exec = func(ctx context.Context, o container.ExecOptions) (uint32, error) {
		if o.Args[2] == "hang" {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		io.WriteString(o.Stdout, "out of "+o.Args[2])
		return 9, nil
	}
	commands := phonehostv1.NewCommandServiceClient(s.conn)
	answer, err := commands.RunCommand(t.Context(), &phonehostv1.RunCommandRequest{PhoneIds: []string{"off", "p1", "none"}, Command: "it"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range answer.GetResults() {
		got = append(got, fmt.Sprintf("%s %q %d %s", r.GetPhoneId(), r.GetOutput().GetStdout(), r.GetOutput().GetExitCode(), r.GetFailure().GetReason()))
	}
	want := []string{`off "" 0 NOT_RUNNING`, `p1 "out of it" 9 `, `none "" 0 NO_SUCH_PHONE`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	answer, err = commands.RunCommand(t.Context(), &phonehostv1.RunCommandRequest{PhoneIds: []string{"p1"}, Command: "hang", Timeout: durationpb.New(100 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	if r := answer.GetResults()[0]; r.GetFailure().GetReason() != "COMMAND_TIMEOUT" || codes.Code(r.GetFailure().GetCode()) != codes.DeadlineExceeded || r.GetOutput().ExitCode != nil {
		t.Errorf("%v", r)
	}
}

func TestStartCommand(t *testing.T) {
	s := start(t)
	s.on(t, "p1")
	s.guests.exec = func(_ context.Context, o container.ExecOptions) (uint32, error) {
		_, err := o.Stderr.Write(bytes.Repeat([]byte{'x'}, 5000))
		return 0, err
	}
	answer, err := phonehostv1.NewCommandServiceClient(s.conn).StartCommand(t.Context(), &phonehostv1.StartCommandRequest{PhoneIds: []string{"p1"}, Command: "it"})
	if err != nil {
		t.Fatal(err)
	}
	op := s.finish(t, answer.GetOperation())
	out := op.GetResults()[0].GetOutput()
	if op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED || len(out.GetStderr()) != 1024 || out.GetStderrDroppedBytes() != 5000-1024 || out.ExitCode == nil {
		t.Errorf("%v", op)
	}
}

func TestCommandsRefuse(t *testing.T) {
	s := start(t)
	s.on(t, "p1")
	s.create(t, "off")
	commands := phonehostv1.NewCommandServiceClient(s.conn)
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprint("p", i)
	}
	field := func(name string) refusal { return refusal{codes.InvalidArgument, fault.InvalidField, name} }
	for name, tt := range map[string]struct {
		run   *phonehostv1.RunCommandRequest
		start *phonehostv1.StartCommandRequest
		want  refusal
	}{
		"33 phones":        {run: &phonehostv1.RunCommandRequest{PhoneIds: many[:33], Command: "x"}, want: field("phone_ids")},
		"nobody":           {run: &phonehostv1.RunCommandRequest{Command: "x"}, want: field("phone_ids")},
		"no command":       {run: &phonehostv1.RunCommandRequest{PhoneIds: many[:1]}, want: field("command")},
		"over a minute":    {run: &phonehostv1.RunCommandRequest{PhoneIds: many[:1], Command: "x", Timeout: durationpb.New(61 * time.Second)}, want: field("timeout")},
		"no duration":      {run: &phonehostv1.RunCommandRequest{PhoneIds: many[:1], Command: "x", Timeout: &durationpb.Duration{Nanos: -1, Seconds: 1}}, want: field("timeout")},
		"101 phones":       {start: &phonehostv1.StartCommandRequest{PhoneIds: many, Command: "x"}, want: field("phone_ids")},
		"start nothing":    {start: &phonehostv1.StartCommandRequest{PhoneIds: many[:1]}, want: field("command")},
		"over an hour":     {start: &phonehostv1.StartCommandRequest{PhoneIds: many[:1], Command: "x", Timeout: durationpb.New(61 * time.Minute)}, want: field("timeout")},
		"all off":          {start: &phonehostv1.StartCommandRequest{PhoneIds: []string{"off"}, Command: "x"}, want: refusal{Code: codes.FailedPrecondition, Reason: fault.NotRunning}},
		"no such phone":    {start: &phonehostv1.StartCommandRequest{PhoneIds: []string{"none"}, Command: "x"}, want: refusal{Code: codes.NotFound, Reason: fault.NoSuchPhone}},
		"long request ids": {start: &phonehostv1.StartCommandRequest{PhoneIds: []string{"p1"}, Command: "x", RequestId: string(bytes.Repeat([]byte{'r'}, 65))}, want: field("request_id")},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			if tt.run != nil {
				_, err = commands.RunCommand(t.Context(), tt.run)
			} else {
				_, err = commands.StartCommand(t.Context(), tt.start)
			}
			if diff := cmp.Diff(tt.want, readError(t, err)); diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

// TestPushFile checks the protocol of the call; what becomes of the bytes in a guest is tested in agent/guestfile and scripts/e2e.
func TestPushFile(t *testing.T) {
	s := start(t)
	s.on(t, "p1")
	var written []byte
	s.guests.exec = func(_ context.Context, o container.ExecOptions) (uint32, error) {
		var err error
		written, err = io.ReadAll(o.Stdin)
		line, content, _ := bytes.Cut(written, []byte("\n")) // the script waits for a line before it writes
		if err != nil || string(line) != "go" {
			return 67, nil
		}
		written = content
		return 0, nil
	}
	begin := func(size uint64) *phonehostv1.PushFileRequest {
		return &phonehostv1.PushFileRequest{Message: &phonehostv1.PushFileRequest_Start{Start: &phonehostv1.PushFileStart{PhoneId: "p1", Path: "/f", SizeBytes: size}}}
	}
	chunk := func(n int) *phonehostv1.PushFileRequest {
		return &phonehostv1.PushFileRequest{Message: &phonehostv1.PushFileRequest_Chunk{Chunk: bytes.Repeat([]byte{'x'}, n)}}
	}
	push := func(messages ...*phonehostv1.PushFileRequest) (*phonehostv1.PushFileResponse, error) {
		call, err := phonehostv1.NewFileServiceClient(s.conn).PushFile(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if err := call.Send(m); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		return call.CloseAndRecv()
	}
	answer, err := push(begin(70_000), chunk(64<<10), chunk(70_000-64<<10))
	sum := sha256.Sum256(written)
	if err != nil || len(written) != 70_000 || answer.GetSizeBytes() != 70_000 || !bytes.Equal(answer.GetSha256(), sum[:]) {
		t.Errorf("%d bytes were written, %v, %v", len(written), answer, err)
	}
	field := func(name string) refusal { return refusal{codes.InvalidArgument, fault.InvalidField, name} }
	for name, tt := range map[string]struct {
		messages []*phonehostv1.PushFileRequest
		want     refusal
	}{
		"no message":      {nil, field("start")},
		"no beginning":    {[]*phonehostv1.PushFileRequest{chunk(1)}, field("start")},
		"two beginnings":  {[]*phonehostv1.PushFileRequest{begin(2), chunk(1), begin(2)}, field("start")},
		"a chunk too big": {[]*phonehostv1.PushFileRequest{begin(1 << 20), chunk(64<<10 + 1)}, field("chunk")},
		"too few bytes":   {[]*phonehostv1.PushFileRequest{begin(2), chunk(1)}, field("chunk")},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := push(tt.messages...)
			if diff := cmp.Diff(tt.want, readError(t, err)); diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

func TestPullFile(t *testing.T) {
	s := start(t)
	s.on(t, "p1")
	s.guests.exec = func(_ context.Context, o container.ExecOptions) (uint32, error) {
		_, err := fmt.Fprintf(o.Stdout, "100000 640 7 8 1700000000\n%s", bytes.Repeat([]byte{'x'}, 100000))
		return 0, err
	}
	call, err := phonehostv1.NewFileServiceClient(s.conn).PullFile(t.Context(), &phonehostv1.PullFileRequest{PhoneId: "p1", Path: "/f"})
	if err != nil {
		t.Fatal(err)
	}
	var data []byte
	for {
		m, err := call.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if i := m.GetInfo(); i != nil && (i.GetSizeBytes() != 100000 || i.GetMode() != 0o640 || i.GetUid() != 7 || i.GetGid() != 8 || i.GetModifyTime().GetSeconds() != 1700000000) {
			t.Errorf("%v", i)
		}
		if len(m.GetChunk()) > maxChunk {
			t.Errorf("a chunk of %d bytes", len(m.GetChunk()))
		}
		data = append(data, m.GetChunk()...)
		if sum := m.GetSha256(); sum != nil {
			if want := sha256.Sum256(data); !bytes.Equal(sum, want[:]) || len(data) != 100000 {
				t.Errorf("%d bytes of digest %x", len(data), sum)
			}
			break
		}
	}
	if _, err := call.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the digest: %v", err)
	}
}
