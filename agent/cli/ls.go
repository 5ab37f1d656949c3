package cli

import (
	"context"
	"io"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type lsCmd struct {
	IDs   []string `arg:"" optional:"" name:"id" help:"Only these phones."`
	Watch bool     `short:"w" help:"Go on with a row for every change until interrupted."`
}

func (c *lsCmd) Run(ctx context.Context, a *app) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	if c.Watch {
		return c.watch(ctx, a, phones)
	}
	answer, err := phones.ListPhones(ctx, &phonehostv1.ListPhonesRequest{PhoneIds: c.IDs})
	if err != nil {
		return err
	}
	return a.print(answer, func(w io.Writer) error {
		if len(answer.GetPhones()) == 0 {
			a.sayf("no phones yet: `phonectl create ID --image IMG` makes one")
			return nil
		}
		table := render.NewPhoneTable(a.now)
		for _, p := range answer.GetPhones() {
			table.Add(p)
		}
		return table.Write(w)
	})
}

// watch prints the phones and then a row, or with JSON a message a line, for every change.
func (c *lsCmd) watch(ctx context.Context, a *app, phones phonehostv1.PhoneServiceClient) error {
	stream, err := phones.Watch(ctx, &phonehostv1.WatchRequest{PhoneIds: c.IDs})
	if err != nil {
		return err
	}
	table := render.NewPhoneTable(a.now)
	synced := false
	for {
		change, err := stream.Recv()
		switch {
		case interrupted(ctx, err):
			return nil // how a watch ends
		case err != nil:
			return ended(err)
		case a.json():
			err = render.JSONLine(a.stdout, change)
		case change.GetSynced():
			synced = true
			err = table.Write(a.stdout)
		case change.GetPhone() != nil && !synced:
			table.Add(change.GetPhone())
		case change.GetPhone() != nil:
			err = table.Changed(a.stdout, change.GetPhone())
		case change.GetDeletedPhoneId() != "":
			err = table.Deleted(a.stdout, change.GetDeletedPhoneId())
		}
		if err != nil {
			return err
		}
	}
}
