package cli

import (
	"context"
	"io"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type hostCmd struct{}

func (c *hostCmd) Run(ctx context.Context, a *app) error {
	host, err := a.host(ctx)
	if err != nil {
		return err
	}
	answer, err := host.GetHost(ctx, &phonehostv1.GetHostRequest{})
	if err != nil {
		return err
	}
	return a.print(answer.GetHost(), func(w io.Writer) error { return render.Host(w, answer.GetHost(), a.now()) })
}
