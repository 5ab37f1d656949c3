package cli

import (
	"context"
	"io"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type statusCmd struct {
	IDs []string `arg:"" optional:"" name:"id" help:"Only these phones."`
}

func (c *statusCmd) Run(ctx context.Context, a *app) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	answer, err := phones.ListPhones(ctx, &phonehostv1.ListPhonesRequest{PhoneIds: c.IDs})
	if err != nil {
		return err
	}
	return a.print(answer, func(w io.Writer) error { return render.Statuses(w, answer.GetPhones(), a.now()) })
}
