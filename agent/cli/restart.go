package cli

import (
	"context"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type restartCmd struct {
	IDs []string `arg:"" name:"id" help:"The phones, up to 100."`
	ending
	waiting
}

func (c *restartCmd) Run(ctx context.Context, a *app) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	answer, err := phones.Restart(ctx, &phonehostv1.RestartRequest{
		PhoneIds: c.IDs, RequestId: c.RequestID, Grace: c.grace(), Force: c.Force,
	})
	if err != nil {
		return about(first(c.IDs), err)
	}
	return a.finish(ctx, answer.GetOperation(), c.waiting)
}
