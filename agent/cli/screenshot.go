package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type screenshotCmd struct {
	ID   string `arg:"" help:"The phone."`
	File string `short:"f" required:"" placeholder:"FILE" help:"Where to save the PNG; - writes the standard output."`
}

func (c *screenshotCmd) Run(ctx context.Context, a *app) error {
	if err := refuseTerminal(a, c.File); err != nil {
		return err
	}
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	stream, err := phonehostv1.NewStreamServiceClient(conn.Media()).Screenshot(ctx, &phonehostv1.ScreenshotRequest{
		PhoneId: c.ID, Format: phonehostv1.ImageFormat_IMAGE_FORMAT_PNG,
	})
	if err != nil {
		return about(c.ID, err)
	}
	var picture bytes.Buffer
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return about(c.ID, err)
		}
		picture.Write(answer.GetChunk())
	}
	if c.File == "-" {
		_, err := a.stdout.Write(picture.Bytes())
		return err
	}
	if err := os.WriteFile(c.File, picture.Bytes(), 0o644); err != nil {
		return err
	}
	a.sayf("%s: %s", c.File, render.Bytes(uint64(picture.Len())))
	return nil
}

// refuseTerminal refuses to write pictures and video to a terminal.
func refuseTerminal(a *app, name string) error {
	if _, tty := terminal(a.stdout); name == "-" && tty {
		return usagef("-f - would write binary data to the terminal: name a file, or pipe the output")
	}
	return nil
}
