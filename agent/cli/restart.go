package cli

import (
	"context"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type restartCmd struct {
	IDs   []string `arg:"" name:"id" help:"The phones, up to 100."`
	Image string   `placeholder:"IMG" help:"Start them from this image of their profile, on the same data. Default: what they have."`
	ending
	waiting
}

func (c *restartCmd) Run(ctx context.Context, a *app) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	answer, err := phones.Restart(ctx, &phonehostv1.RestartRequest{
		PhoneIds: c.IDs, RequestId: c.RequestID, Grace: c.grace(), Force: c.Force, Image: c.Image,
	})
	if err != nil {
		return aboutAll(c.IDs, err)
	}
	return a.finish(ctx, answer.GetOperation(), c.waiting)
}
