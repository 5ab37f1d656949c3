package cli

import (
	"context"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type freezeCmd struct {
	IDs    []string `arg:"" name:"id" help:"The phones, up to 100."`
	Reason string   `required:"" enum:"expired,overdue,violation,police,admin" placeholder:"REASON" help:"Why: expired, overdue, violation, police or admin."`
	ending
	waiting
}

// freezeReasons are the API's reasons by their names on the command line.
var freezeReasons = map[string]phonehostv1.FreezeReason{
	"expired":   phonehostv1.FreezeReason_FREEZE_REASON_EXPIRED,
	"overdue":   phonehostv1.FreezeReason_FREEZE_REASON_OVERDUE,
	"violation": phonehostv1.FreezeReason_FREEZE_REASON_VIOLATION,
	"police":    phonehostv1.FreezeReason_FREEZE_REASON_POLICE,
	"admin":     phonehostv1.FreezeReason_FREEZE_REASON_ADMIN,
}

func (c *freezeCmd) Run(ctx context.Context, a *app) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	answer, err := phones.Freeze(ctx, &phonehostv1.FreezeRequest{
		PhoneIds: c.IDs, RequestId: c.RequestID, Reason: freezeReasons[c.Reason], Grace: c.grace(), Force: c.Force,
	})
	if err != nil {
		return aboutAll(c.IDs, err)
	}
	return a.finish(ctx, answer.GetOperation(), c.waiting)
}

type unfreezeCmd struct {
	IDs    []string `arg:"" name:"id" help:"The phones, up to 100."`
	Reason []string `enum:"expired,overdue,violation,police,admin" placeholder:"REASON" help:"Only this reason; may be repeated. Default: all."`
	waiting
}

func (c *unfreezeCmd) Run(ctx context.Context, a *app) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	q := &phonehostv1.UnfreezeRequest{PhoneIds: c.IDs, RequestId: c.RequestID}
	for _, reason := range c.Reason {
		q.Reasons = append(q.Reasons, freezeReasons[reason])
	}
	answer, err := phones.Unfreeze(ctx, q)
	if err != nil {
		return aboutAll(c.IDs, err)
	}
	return a.finish(ctx, answer.GetOperation(), c.waiting)
}
