package cli

import (
	"context"
	"io"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type opsCmd struct {
	Ls   opsLsCmd   `cmd:"" help:"List operations, newest first; they are kept for 24 hours."`
	Show opsShowCmd `cmd:"" help:"Show an operation and its result for every phone."`
	Wait opsWaitCmd `cmd:"" help:"Wait for the end of an operation."`
}

type opsLsCmd struct {
	Phone   string `placeholder:"ID" help:"Only operations on this phone."`
	Running bool   `help:"Only operations that have not ended."`
	Limit   uint32 `short:"n" placeholder:"N" help:"At most so many, 1..1000. Default: 100."`
}

func (c *opsLsCmd) Run(ctx context.Context, a *app) error {
	operations, err := a.operations(ctx)
	if err != nil {
		return err
	}
	answer, err := operations.ListOperations(ctx, &phonehostv1.ListOperationsRequest{
		PhoneId: c.Phone, RunningOnly: c.Running, Limit: c.Limit,
	})
	if err != nil {
		return about(c.Phone, err)
	}
	return a.print(answer, func(w io.Writer) error { return render.Operations(w, answer.GetOperations(), a.now()) })
}

type opsShowCmd struct {
	ID string `arg:"" help:"The operation, such as op-12."`
}

func (c *opsShowCmd) Run(ctx context.Context, a *app) error {
	op, err := a.operation(ctx, c.ID)
	if err != nil {
		return err
	}
	return a.print(op, func(w io.Writer) error { return render.Operation(w, op, a.now()) })
}

type opsWaitCmd struct {
	ID string `arg:"" help:"The operation, such as op-12."`
}

func (c *opsWaitCmd) Run(ctx context.Context, a *app) error {
	op, err := a.operation(ctx, c.ID)
	if err != nil {
		return err
	}
	return a.await(ctx, op)
}

// operation asks for one operation.
func (a *app) operation(ctx context.Context, id string) (*phonehostv1.Operation, error) {
	operations, err := a.operations(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := operations.GetOperation(ctx, &phonehostv1.GetOperationRequest{OperationId: id})
	if err != nil {
		return nil, about(id, err)
	}
	return answer.GetOperation(), nil
}
