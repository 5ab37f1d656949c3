package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/agent/config"
	"github.com/phonehost/phonehost/runtime/cgroup"
	"github.com/phonehost/phonehost/runtime/container"
)

type holdCommand struct{}

// Run makes this process the holder of the phones' cgroups and becomes sleep(1): what does nothing for months should take no memory.
func (holdCommand) Run(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the own program: %w", err)
	}
	if err := cgroup.Hold(ctx, []string{program, "hold-cgroup"}); err != nil {
		return err
	}
	if err := notify(notifyReady); err != nil {
		return err
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		return fmt.Errorf("find sleep: %w", err)
	}
	if err := unix.Exec(sleep, []string{"sleep", "infinity"}, os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", sleep, err)
	}
	return nil
}

type endCommand struct {
	runCommand
}

// endAtOnce bounds how many guests are asked at the same time.
const endAtOnce = 128

// endRest is the time for what follows the guests' ends, or for killing them.
const endRest = 20 * time.Second

// Run shuts all guests down. The service manager starts it when the host stops, after the agent has ended; it also starts it when the
// holder was ended by a signal, and then the phones are left alone: MAINPID names the holder while it runs.
func (c *endCommand) Run(ctx context.Context) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	logger := newLogger(cfg.Log, os.Stderr)
	if os.Getenv("SERVICE_RESULT") != "" && os.Getenv("MAINPID") == "" {
		logger.Info("phones are left alone: only their cgroup's holder has ended")
		return nil
	}
	return endPhones(ctx, cfg, logger)
}

func endPhones(ctx context.Context, cfg config.Config, logger *slog.Logger) error {
	grace := time.Duration(cfg.Limits.Grace)
	ctx, cancel := context.WithTimeout(ctx, grace+endRest)
	defer cancel()
	c, _, err := engineConfig(cfg, logger)
	if err != nil {
		return err
	}
	c.DisplayBinary = "" // nothing is started
	engine, err := container.New(c)
	if err != nil {
		return err
	}
	defer engine.Close()
	ids, err := engine.IDs(ctx)
	if err != nil {
		return err
	}
	logger.Info("shutting guests down because the host stops", "phones", len(ids), "grace", grace)
	errs := make([]error, len(ids))
	group := new(errgroup.Group)
	group.SetLimit(endAtOnce)
	for i, id := range ids {
		group.Go(func() error {
			errs[i] = engine.EndForHost(ctx, id, grace)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return errors.Join(errs...)
}
