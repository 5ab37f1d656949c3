package cli

import (
	"context"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type onCmd struct {
	IDs []string `arg:"" name:"id" help:"The phones, up to 100."`
	waiting
}

func (c *onCmd) Run(ctx context.Context, a *app) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	answer, err := phones.PowerOn(ctx, &phonehostv1.PowerOnRequest{PhoneIds: c.IDs, RequestId: c.RequestID})
	if err != nil {
		return aboutAll(c.IDs, err)
	}
	return a.finish(ctx, answer.GetOperation(), c.waiting)
}

// first is the phone that a refusal of a whole call is about: the API answers with the first refusal.
func first(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	return ids[0]
}
