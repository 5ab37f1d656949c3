package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type specCmd struct {
	ID      string `arg:"" help:"The phone."`
	Display bool   `help:"The display's spec instead of the guest's."`
}

func (c *specCmd) Run(ctx context.Context, a *app) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	answer, err := phones.GetSpec(ctx, &phonehostv1.GetSpecRequest{PhoneId: c.ID})
	if err != nil {
		return about(c.ID, err)
	}
	spec := answer.GetGuest()
	if c.Display {
		spec = answer.GetDisplay()
	}
	text, err := render.IndentJSON(spec)
	if err != nil {
		return fmt.Errorf("the agent's spec of %s: %w", c.ID, err)
	}
	_, err = io.WriteString(a.stdout, text)
	return err
}
