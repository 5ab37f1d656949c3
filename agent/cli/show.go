package cli

import (
	"context"
	"io"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type showCmd struct {
	ID string `arg:"" help:"The phone."`
}

func (c *showCmd) Run(ctx context.Context, a *app) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	answer, err := phones.GetPhone(ctx, &phonehostv1.GetPhoneRequest{PhoneId: c.ID})
	if err != nil {
		return about(c.ID, err)
	}
	return a.print(answer.GetPhone(), func(w io.Writer) error { return render.Phone(w, answer.GetPhone(), a.now()) })
}
