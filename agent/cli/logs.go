package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type logsCmd struct {
	ID      string `arg:"" help:"The phone."`
	Display bool   `help:"Output of the phone's display instead of its guest."`
	Follow  bool   `short:"f" help:"Go on with new lines until interrupted."`
	Tail    uint32 `short:"n" placeholder:"N" help:"Only the last N lines. Default: all that are kept."`
	Times   bool   `short:"t" help:"Begin each line with its time (UTC)."`
}

func (c *logsCmd) Run(ctx context.Context, a *app) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	source := phonehostv1.LogSource_LOG_SOURCE_GUEST
	if c.Display {
		source = phonehostv1.LogSource_LOG_SOURCE_DISPLAY
	}
	stream, err := phones.Logs(ctx, &phonehostv1.LogsRequest{PhoneId: c.ID, Source: source, Follow: c.Follow, TailLines: c.Tail})
	if err != nil {
		return about(c.ID, err)
	}
	write := c.writer(a)
	for {
		answer, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && !c.Follow, c.Follow && interrupted(ctx, err):
			return nil
		case err != nil:
			return about(c.ID, ended(err))
		}
		for _, line := range answer.GetLines() {
			if err := write(line); err != nil {
				return err
			}
		}
	}
}

// writer returns what writes a line: as JSON, for a terminal with what could steer it made visible, or as it is.
func (c *logsCmd) writer(a *app) func(*phonehostv1.LogLine) error {
	if a.json() {
		return func(line *phonehostv1.LogLine) error { return render.JSONLine(a.stdout, line) }
	}
	clean := func(text string) string { return text }
	if _, ok := terminal(a.stdout); ok {
		clean = render.Printable
	}
	return func(line *phonehostv1.LogLine) error {
		stamp := ""
		if c.Times {
			stamp = line.GetTime().AsTime().UTC().Format(time.RFC3339Nano) + " "
		}
		_, err := fmt.Fprintln(a.stdout, stamp+clean(line.GetText()))
		return err
	}
}
