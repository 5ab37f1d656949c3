package cli

import (
	"context"
	"io"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type appListDenialsCmd struct {
	IDs    []string `arg:"" optional:"" name:"id" help:"Only these phones."`
	Follow bool     `short:"f" help:"What is refused from now on, second by second, until interrupted."`
}

// Help is the detailed help.
func (c *appListDenialsCmd) Help() string {
	return "Without -f it prints what the journal keeps (`phonectl events`): what is new at once, what goes on summed up, once a minute."
}

func (c *appListDenialsCmd) Run(ctx context.Context, a *app) error {
	if c.Follow {
		return c.follow(ctx, a)
	}
	return fromJournal(ctx, a, c.IDs, render.AppDenialsOf, render.NewAppDenials().Append)
}

// follow prints what is refused from now on.
func (c *appListDenialsCmd) follow(ctx context.Context, a *app) error {
	lists, err := a.appLists(ctx)
	if err != nil {
		return err
	}
	watch, err := lists.WatchAppDenials(ctx, &phonehostv1.WatchAppDenialsRequest{PhoneIds: c.IDs})
	if err != nil {
		return about(first(c.IDs), err)
	}
	table := render.NewAppDenials()
	for {
		answer, err := watch.Recv()
		if interrupted(ctx, err) {
			return nil
		}
		if err != nil {
			return about(first(c.IDs), ended(err))
		}
		a.missed(answer.GetMissed(), "entries")
		if err := rows(a, answer.GetDenials(), func(w io.Writer) error { return table.Append(w, answer.GetDenials()) }); err != nil {
			return err
		}
	}
}
