package applet

import (
	"context"

	"github.com/phonehost/phonehost/scripts/testphone/system"
)

// pm, am and cmd hand over to the system server, as Android's do.
func pm(ctx context.Context, s Streams, args []string) error {
	return framework(ctx, s, "package", args)
}

func am(ctx context.Context, s Streams, args []string) error {
	return framework(ctx, s, "activity", args)
}

func cmd(ctx context.Context, s Streams, args []string) error {
	if len(args) == 0 {
		return usage("cmd SERVICE [ARGUMENT...]")
	}
	return framework(ctx, s, args[0], args[1:])
}

func framework(ctx context.Context, s Streams, service string, args []string) error {
	code, err := system.Call(ctx, "", service, args, s.In, s.Out, s.Err)
	if err == nil && code != 0 {
		err = status(code)
	}
	return err
}
