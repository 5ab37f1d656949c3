package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// Watch sends the phones, and then each that changes.
func (f *fakeAgent) Watch(in *phonehostv1.WatchRequest, stream grpc.ServerStreamingServer[phonehostv1.WatchResponse]) error {
	defer context.AfterFunc(stream.Context(), f.changed.Broadcast)()
	f.mu.Lock()
	defer f.mu.Unlock()
	phones, err := f.list(in.GetPhoneIds())
	if err != nil {
		return err
	}
	seen, gone := uint64(0), len(f.deleted)
	for _, p := range phones {
		seen = max(seen, p.GetRevision())
		if err := stream.Send(&phonehostv1.WatchResponse{Change: &phonehostv1.WatchResponse_Phone{Phone: p}}); err != nil {
			return err
		}
	}
	if err := stream.Send(&phonehostv1.WatchResponse{Change: &phonehostv1.WatchResponse_Synced{Synced: true}}); err != nil {
		return err
	}
	for stream.Context().Err() == nil {
		for ; gone < len(f.deleted); gone++ {
			if err := stream.Send(&phonehostv1.WatchResponse{Change: &phonehostv1.WatchResponse_DeletedPhoneId{DeletedPhoneId: f.deleted[gone]}}); err != nil {
				return err
			}
		}
		newest := seen
		for _, p := range f.phones {
			if p.GetRevision() <= seen {
				continue
			}
			newest = max(newest, p.GetRevision())
			if err := stream.Send(&phonehostv1.WatchResponse{Change: &phonehostv1.WatchResponse_Phone{Phone: p}}); err != nil {
				return err
			}
		}
		seen = newest
		f.changed.Wait()
	}
	return stream.Context().Err()
}

// Exec runs a few words: echo, cat, fail CODE, env, tty, hang.
func (f *fakeAgent) Exec(stream grpc.BidiStreamingServer[phonehostv1.ExecRequest, phonehostv1.ExecResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	f.mu.Lock()
	p := f.phones[start.GetPhoneId()]
	if p == nil {
		err = noPhone(start.GetPhoneId())
	} else {
		err = mustRun(p)
	}
	f.mu.Unlock()
	if err != nil {
		return err
	}
	code, err := f.command(start, stream)
	if err != nil {
		return err
	}
	return stream.Send(&phonehostv1.ExecResponse{Message: &phonehostv1.ExecResponse_ExitCode{ExitCode: int32(code)}})
}

func (f *fakeAgent) command(start *phonehostv1.ExecStart, stream grpc.BidiStreamingServer[phonehostv1.ExecRequest, phonehostv1.ExecResponse]) (int, error) {
	out := func(text string) error {
		return stream.Send(&phonehostv1.ExecResponse{Message: &phonehostv1.ExecResponse_Stdout{Stdout: []byte(text)}})
	}
	args := start.GetArgs()
	if start.GetTerminal() {
		return fakeShell(start, stream, out)
	}
	switch args[0] {
	case "echo":
		return 0, out(strings.Join(args[1:], " ") + "\n")
	case "env":
		return 0, out(strings.Join(start.GetEnv(), "\n") + fmt.Sprintf("\ncwd=%s uid=%d\n", start.GetCwd(), start.GetUid()))
	case "fail":
		code, err := strconv.Atoi(args[1])
		return code, errors.Join(err, stream.Send(&phonehostv1.ExecResponse{Message: &phonehostv1.ExecResponse_Stderr{Stderr: []byte("it failed\n")}}))
	case "cat":
		for {
			in, err := stream.Recv()
			if err != nil {
				return 0, err
			}
			if in.GetStdinClosed() {
				return 0, nil
			}
			if err := out(string(in.GetStdin())); err != nil {
				return 0, err
			}
		}
	case "hang":
		if err := out("hanging\n"); err != nil {
			return 0, err
		}
		f.hung <- struct{}{}
		<-stream.Context().Done()
		return 0, stream.Context().Err()
	}
	return 127, nil
}

// fakeShell tells its terminal and repeats each line, until one says exit.
func fakeShell(start *phonehostv1.ExecStart, stream grpc.BidiStreamingServer[phonehostv1.ExecRequest, phonehostv1.ExecResponse], out func(string) error) (int, error) {
	size := start.GetSize()
	if err := out(fmt.Sprintf("shell %v %dx%d %s\r\n", start.GetArgs(), size.GetColumns(), size.GetRows(), start.GetEnv())); err != nil {
		return 0, err
	}
	line := ""
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) || in.GetStdinClosed() {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		if r := in.GetResize(); r != nil {
			if err := out(fmt.Sprintf("now %dx%d\r\n", r.GetColumns(), r.GetRows())); err != nil {
				return 0, err
			}
		}
		line += string(in.GetStdin())
		for {
			// What comes from a raw terminal ends lines with a carriage return.
			head, rest, ok := strings.Cut(strings.ReplaceAll(line, "\r", "\n"), "\n")
			if !ok {
				break
			}
			line = rest
			if code, ok := strings.CutPrefix(head, "exit "); ok {
				n, err := strconv.Atoi(code)
				return n, err
			}
			if err := out("you said " + head + "\r\n"); err != nil {
				return 0, err
			}
		}
	}
}

// Logs sends three lines, the last of which tries to steer the terminal, and one more when following.
func (f *fakeAgent) Logs(in *phonehostv1.LogsRequest, stream grpc.ServerStreamingServer[phonehostv1.LogsResponse]) error {
	f.mu.Lock()
	known := f.phones[in.GetPhoneId()] != nil
	f.mu.Unlock()
	if !known {
		return noPhone(in.GetPhoneId())
	}
	who := "init"
	if in.GetSource() == phonehostv1.LogSource_LOG_SOURCE_DISPLAY {
		who = "phone-display"
	}
	lines := []*phonehostv1.LogLine{
		{Time: timestamppb.New(base), Text: who + ": first"},
		{Time: timestamppb.New(base), Text: who + ": second", Stderr: true},
		{Time: timestamppb.New(base), Text: who + ": \x1b[31mred"},
	}
	if n := int(in.GetTailLines()); n > 0 && n < len(lines) {
		lines = lines[len(lines)-n:]
	}
	if err := stream.Send(&phonehostv1.LogsResponse{Lines: lines}); err != nil || !in.GetFollow() {
		return err
	}
	if err := stream.Send(&phonehostv1.LogsResponse{Lines: []*phonehostv1.LogLine{{Text: who + ": followed"}}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return status.FromContextError(stream.Context().Err()).Err()
}

// fakeEvents serves a journal of three events, the first of which has been trimmed away.
type fakeEvents struct {
	phonehostv1.UnimplementedEventServiceServer
}

func (f *fakeEvents) Watch(in *phonehostv1.EventServiceWatchRequest, stream grpc.ServerStreamingServer[phonehostv1.EventServiceWatchResponse]) error {
	events := []*phonehostv1.Event{
		{Seq: 2, Time: timestamppb.New(base), Kind: phonehostv1.EventKind_EVENT_KIND_AGENT_STARTED, Message: "the agent started",
			Attributes: map[string]string{"version": "1.0.0"}},
		{Seq: 3, Time: timestamppb.New(base), Kind: phonehostv1.EventKind_EVENT_KIND_PHONE_STATUS, PhoneId: "cp-1", Message: "cp-1 is 4 STARTING",
			Attributes: map[string]string{"from": "1", "to": "4", "reason": "asked for"}},
		{Seq: 4, Time: timestamppb.New(base), Kind: phonehostv1.EventKind_EVENT_KIND_GUEST_BOOTED, PhoneId: "cp-1", Message: "cp-1 has booted"},
		{Seq: 5, Time: timestamppb.New(base), Kind: phonehostv1.EventKind_EVENT_KIND_NETWORK_DENIED, PhoneId: "cp-1", Message: "12 packets tcp of cp-1 to 10.0.0.1:22 dropped: PROTECTED",
			Attributes: map[string]string{
				"direction": "egress", "protocol": "tcp", "peer": "10.0.0.1", "port": "22", "reason": "PROTECTED", "class": "HOST", "rule": "-1", "packets": "12", "bytes": "720",
			}},
		{Seq: 6, Time: timestamppb.New(base), Kind: phonehostv1.EventKind_EVENT_KIND_APP_DENIED, PhoneId: "cp-1", Message: "com.a, com.b was not to start in cp-1 (3 times)",
			Attributes: map[string]string{
				"kind": "launch", "packages": "com.a,com.b", "uid": "10002", "count": "3", "app_list": "games",
				"first": "2026-01-02T15:04:00.5Z", "last": "2026-01-02T15:04:05Z",
			}},
	}
	if in.GetAfterSeq() == 1 {
		return refuse(codes.OutOfRange, "JOURNAL_TRIMMED", map[string]string{"oldest_seq": "2"}, "events after 1 are no longer kept")
	}
	out := new(phonehostv1.EventServiceWatchResponse)
	for _, e := range events {
		if e.GetSeq() > in.GetAfterSeq() && !in.GetOnlyNew() && (in.GetPhoneId() == "" || e.GetPhoneId() == in.GetPhoneId()) {
			out.Events = append(out.Events, e)
		}
	}
	if err := stream.Send(out); err != nil || in.GetNoFollow() {
		return err
	}
	<-stream.Context().Done()
	return status.FromContextError(stream.Context().Err()).Err()
}
