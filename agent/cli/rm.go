package cli

import (
	"context"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type rmCmd struct {
	IDs   []string `arg:"" name:"id" help:"The phones, up to 100."`
	Force bool     `short:"f" help:"Also phones that run: they are killed first."`
	waiting
}

func (c *rmCmd) Run(ctx context.Context, a *app) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	answer, err := phones.Delete(ctx, &phonehostv1.DeleteRequest{PhoneIds: c.IDs, RequestId: c.RequestID, Force: c.Force})
	if err != nil {
		return aboutAll(c.IDs, err)
	}
	return a.finish(ctx, answer.GetOperation(), c.waiting)
}
