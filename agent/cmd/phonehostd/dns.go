package main

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/phonehost/phonehost/netpolicy/resolver"
)

// dnsCommand is the name server of the phones, a process of its own beside the agent.
type dnsCommand struct {
	Config string `help:"Configuration file, which the agent writes." type:"path" placeholder:"FILE" required:""`
	Debug  bool   `help:"Log each question that no upstream answers, too."`
}

// Run answers phones until it is signalled; then another name server takes over.
func (c *dnsCommand) Run(ctx context.Context) error {
	cfg, err := resolver.LoadConfig(c.Config)
	if err != nil {
		return err
	}
	server, err := resolver.New(cfg, resolver.Options{Leases: resolver.OpenPins(cfg.Pins), Logger: c.logger(os.Stderr)})
	if err != nil {
		return err
	}
	return server.Run(ctx)
}

func (c *dnsCommand) logger(out io.Writer) *slog.Logger {
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}))
}
