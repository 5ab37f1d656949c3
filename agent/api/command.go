package api

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/phonehost/phonehost/agent/command"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// Bounds of commands.
const (
	// maxWaited is how many phones RunCommand takes.
	maxWaited = 32
	// waitedTimeout and startedTimeout are the times of commands that name none, and the second of each pair the longest.
	waitedTimeout, maxWaitedTimeout   = 10 * time.Second, time.Minute
	startedTimeout, maxStartedTimeout = 10 * time.Minute, time.Hour
)

// CommandConfig is what CommandService works with. All fields are required.
type CommandConfig struct {
	Commands *command.Runner
	Jobs     *job.Runner
}

// NewCommandServer returns the CommandService.
func NewCommandServer(cfg CommandConfig) phonehostv1.CommandServiceServer {
	return &commandServer{cfg: cfg}
}

type commandServer struct {
	phonehostv1.UnimplementedCommandServiceServer
	cfg CommandConfig
}

// timeoutOf reads an optional timeout.
func timeoutOf(m *durationpb.Duration, otherwise time.Duration) (time.Duration, error) {
	if m == nil {
		return otherwise, nil
	}
	if err := m.CheckValid(); err != nil {
		return 0, fault.Field("timeout", "is not a duration: %v", err)
	}
	return m.AsDuration(), nil
}

func (s *commandServer) RunCommand(ctx context.Context, q *phonehostv1.RunCommandRequest) (*phonehostv1.RunCommandResponse, error) {
	timeout, err := timeoutOf(q.GetTimeout(), waitedTimeout)
	if err == nil {
		err = operation.CheckIDs(q.GetPhoneIds(), maxWaited)
	}
	if err == nil {
		err = command.Check(q.GetCommand(), timeout, maxWaitedTimeout)
	}
	if err != nil {
		return nil, statusError(err)
	}
	answer := &phonehostv1.RunCommandResponse{Results: make([]*phonehostv1.CommandResult, len(q.GetPhoneIds()))}
	var running sync.WaitGroup
	for i, id := range q.GetPhoneIds() {
		running.Go(func() {
			out, err := s.run(ctx, command.Command{PhoneID: id, Line: q.GetCommand(), Timeout: timeout, Keep: command.KeptShown})
			answer.Results[i] = &phonehostv1.CommandResult{PhoneId: id, Output: outputToProto(out), Failure: commandFailure(err)}
		})
	}
	running.Wait()
	if err := ctx.Err(); err != nil {
		return nil, statusError(err)
	}
	return answer, nil
}

// run runs a command in its phone's turn.
func (s *commandServer) run(ctx context.Context, c command.Command) (*operation.Output, error) {
	if _, err := job.Running(s.cfg.Commands.Phones, c.PhoneID); err != nil {
		return nil, err // before a place is taken for a phone that may not exist
	}
	release, err := s.cfg.Jobs.Turn(ctx, c.PhoneID)
	if err != nil {
		return nil, err
	}
	defer release()
	return s.cfg.Commands.Run(ctx, c)
}

func commandFailure(err error) *phonehostv1.Failure {
	if err == nil {
		return nil
	}
	return failureToProto(job.Failure(operation.Command, err, time.Now()))
}

func (s *commandServer) StartCommand(ctx context.Context, q *phonehostv1.StartCommandRequest) (*phonehostv1.StartCommandResponse, error) {
	timeout, err := timeoutOf(q.GetTimeout(), startedTimeout)
	if err == nil {
		err = operation.CheckIDs(q.GetPhoneIds(), phone.MaxPhones)
	}
	if err == nil {
		err = command.Check(q.GetCommand(), timeout, maxStartedTimeout)
	}
	if err != nil {
		return nil, statusError(err)
	}
	op, _, err := s.cfg.Jobs.Submit(job.Request{
		Kind: operation.Command, IDs: q.GetPhoneIds(), Payload: command.Payload(q.GetCommand(), timeout),
		RequestID: q.GetRequestId(), RequestedBy: caller(ctx),
	})
	if err != nil {
		return nil, statusError(err)
	}
	return &phonehostv1.StartCommandResponse{Operation: operationToProto(op)}, nil
}
