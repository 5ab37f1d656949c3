package cli

import (
	"context"
	"errors"
	"io"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type eventsCmd struct {
	Follow bool   `short:"f" help:"Go on with new events until interrupted."`
	After  uint64 `xor:"begin" placeholder:"SEQ" help:"Only events after this sequence number. Default: all that are kept."`
	New    bool   `xor:"begin" help:"Only events from now on; needs -f."`
	Phone  string `placeholder:"ID" help:"Only events of this phone."`
}

// Help is the detailed help.
func (c *eventsCmd) Help() string {
	return "A program that stores the last sequence number it has handled and gives it with --after misses nothing. " +
		"With -o json every event is one line."
}

func (c *eventsCmd) Run(ctx context.Context, a *app) error {
	if c.New && !c.Follow {
		return usagef("--new without -f would print nothing: `phonectl events -f --new`")
	}
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	stream, err := phonehostv1.NewEventServiceClient(conn.Control()).Watch(ctx, &phonehostv1.EventServiceWatchRequest{
		AfterSeq: c.After, OnlyNew: c.New, PhoneId: c.Phone, NoFollow: !c.Follow,
	})
	if err != nil {
		return about(c.Phone, err)
	}
	table := render.NewEvents()
	write := func(e *phonehostv1.Event) error { return table.Write(a.stdout, e) }
	if a.json() {
		write = func(e *phonehostv1.Event) error { return render.JSONLine(a.stdout, e) }
	}
	for {
		answer, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && !c.Follow, c.Follow && interrupted(ctx, err):
			return nil
		case err != nil:
			return about(c.Phone, ended(err))
		}
		for _, e := range answer.GetEvents() {
			if err := write(e); err != nil {
				return err
			}
		}
	}
}
