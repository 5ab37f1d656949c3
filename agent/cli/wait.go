package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// waiting are the flags of commands that start an operation.
type waiting struct {
	NoWait    bool   `help:"Print the operation's id and do not wait for its end."`
	RequestID string `placeholder:"NAME" help:"Your own name for this request: a retry with it returns the first operation."`
}

// finish follows an accepted operation to its end, or with --no-wait prints it.
func (a *app) finish(ctx context.Context, op *phonehostv1.Operation, flags waiting) error {
	if !flags.NoWait {
		return a.await(ctx, op)
	}
	return a.print(op, func(w io.Writer) error {
		a.sayf("%s is under way; wait for it: `phonectl ops wait %s`", op.GetId(), op.GetId())
		_, err := fmt.Fprintln(w, op.GetId())
		return err
	})
}

// await shows an operation's progress until it has ended, prints it where JSON was asked for, and returns an error unless
// it succeeded for every phone.
func (a *app) await(ctx context.Context, op *phonehostv1.Operation) error {
	op, err := a.follow(ctx, op)
	if err != nil {
		return err
	}
	if a.json() {
		if err := render.JSON(a.stdout, op); err != nil {
			return err
		}
	}
	return a.outcome(op)
}

// follow shows an operation's progress until it has ended, and returns it as it is then.
func (a *app) follow(ctx context.Context, op *phonehostv1.Operation) (*phonehostv1.Operation, error) {
	progress := newProgress(a.stderr)
	progress.update(op)
	op, err := a.watchOperation(ctx, op, progress)
	progress.end()
	if err != nil {
		return op, a.stoppedWaiting(ctx, op.GetId(), err)
	}
	return op, nil
}

// watchOperation returns the operation as it ended, or as it was last seen and why it is not seen any more.
func (a *app) watchOperation(ctx context.Context, op *phonehostv1.Operation, progress *progress) (*phonehostv1.Operation, error) {
	operations, err := a.operations(ctx)
	if err != nil {
		return op, err
	}
	stream, err := operations.Watch(ctx, &phonehostv1.OperationServiceWatchRequest{OperationId: op.GetId()})
	if err != nil {
		return op, err
	}
	for {
		answer, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && op.GetState() > phonehostv1.OperationState_OPERATION_STATE_RUNNING:
			return op, nil
		case err != nil:
			return op, ended(err)
		}
		op = answer.GetOperation()
		progress.update(op)
	}
}

// stoppedWaiting tells that an operation goes on although nobody waits for it here any more.
func (a *app) stoppedWaiting(ctx context.Context, id string, err error) error {
	if status.Code(err) == codes.NotFound || status.Code(err) == codes.PermissionDenied {
		return err
	}
	text, remedy := a.explain(ctx, err)
	text += fmt.Sprintf("; %s goes on, wait for it again: `phonectl ops wait %s`", id, id)
	if remedy != "" {
		text += "\n  " + remedy
	}
	return exitError{code: exitFailed, text: text}
}

// outcome turns an ended operation into the command's result: what mends each failure has been asked for here.
func (a *app) outcome(op *phonehostv1.Operation) error {
	if op.GetState() == phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
		return nil
	}
	bad := 0
	for _, r := range op.GetResults() {
		if r.GetState() == phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
			continue
		}
		bad++
		f := r.GetFailure()
		if remedy := remedyFor(codes.Code(f.GetCode()), f.GetReason(), r.GetPhoneId(), nil); remedy != "" {
			a.sayf("  %s: %s", r.GetPhoneId(), remedy)
		}
	}
	text := fmt.Sprintf("%s: not done for %d of %d phones: `phonectl ops show %s`",
		render.Kind(op.GetKind()), bad, len(op.GetResults()), op.GetId())
	if len(op.GetResults()) == 1 {
		text = "" // the phone's own line has said it all
	}
	return exitError{code: exitFailed, text: text}
}

// interrupted says whether a stream ended because the user has ended it.
func interrupted(ctx context.Context, err error) bool {
	return err != nil && errors.Is(ctx.Err(), context.Canceled)
}

// ended turns the silent end of a stream that should not end into an error.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return status.Error(codes.Unavailable, "the agent has ended the call")
	}
	return err
}
