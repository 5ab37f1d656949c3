package cli

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// ending are the flags of commands that end a guest.
type ending struct {
	Grace *time.Duration `placeholder:"DURATION" xor:"end" help:"How long the guest may take to shut down before it is killed. Default: 20s."`
	Force bool           `xor:"end" help:"Kill at once instead of shutting down."`
}

func (e ending) grace() *durationpb.Duration {
	if e.Grace == nil {
		return nil
	}
	return durationpb.New(*e.Grace)
}

type offCmd struct {
	IDs []string `arg:"" name:"id" help:"The phones, up to 100."`
	ending
	waiting
}

func (c *offCmd) Run(ctx context.Context, a *app) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	answer, err := phones.PowerOff(ctx, &phonehostv1.PowerOffRequest{
		PhoneIds: c.IDs, RequestId: c.RequestID, Grace: c.grace(), Force: c.Force,
	})
	if err != nil {
		return aboutAll(c.IDs, err)
	}
	return a.finish(ctx, answer.GetOperation(), c.waiting)
}
