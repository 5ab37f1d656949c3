package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/phonehost/phonehost/scripts/testphone/property"
	"github.com/phonehost/phonehost/scripts/testphone/screen"
)

// runScreen is the composer: it draws the phone's screen until it is told to end or the display goes away.
func runScreen(ctx context.Context) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	props := property.NewClient("")
	shown := func(ctx context.Context) error { return props.Set(ctx, screen.ShownProperty, "1") }
	if err := screen.Run(ctx, screen.Config{Stdout: os.Stdout, Properties: props, Shown: shown}); err != nil && ctx.Err() == nil {
		return fail("screen", err)
	}
	return 0
}
