package cli

import (
	"context"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type resetCmd struct {
	IDs   []string `arg:"" name:"id" help:"The phones, up to 100."`
	Image string   `placeholder:"IMG" help:"Reset them to this image of their profile. Default: their own."`
	waiting
}

func (c *resetCmd) Run(ctx context.Context, a *app) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	answer, err := phones.Reset(ctx, &phonehostv1.ResetRequest{PhoneIds: c.IDs, RequestId: c.RequestID, Image: c.Image})
	if err != nil {
		return aboutAll(c.IDs, err)
	}
	return a.finish(ctx, answer.GetOperation(), c.waiting)
}
