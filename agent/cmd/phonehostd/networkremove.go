package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/agent/config"
	"github.com/phonehost/phonehost/agent/nameserver"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/service"
)

type networkCommands struct {
	Remove networkRemove `cmd:"" help:"Remove all that phonehost has made in this host's network."`
}

type networkRemove struct {
	runCommand
	Force bool `help:"Go on though phones run, which then have no network until they are started again, or though containerd does not answer."`
}

// Help says what is removed.
func (networkRemove) Help() string {
	return "For hosts that phonehost is taken off. Removed are the phones' links (ph-*) and namespaces, the links that limit bandwidth, the unreachable " +
		"routes of the pools, the nftables tables phonehost and phonehost-trial, what is pinned below /sys/fs/bpf/phonehost-net-*, what enforces app lists " +
		"(pinned below /sys/fs/bpf/phonehost-apps-*, and the canary's cgroup), the name server's container and state, and the settings of the uplink that " +
		"were changed and that nobody else can need; others are named. Phones, their data, policies, app lists and the configuration stay: the next agent " +
		"puts them in force again. It refuses while the agent runs, and while phones run. It may be called again, as after a crash."
}

// Run removes the networks.
func (c *networkRemove) Run(ctx context.Context, out io.Writer) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	return removeNetworks(ctx, cfg, c.Force, newLogger(cfg.Log, os.Stderr), out)
}

func removeNetworks(ctx context.Context, cfg config.Config, force bool, logger *slog.Logger, out io.Writer) error {
	unlock, err := keepAgentAway(cfg)
	if err != nil {
		return err
	}
	defer unlock()
	c, _, err := engineConfig(cfg, logger)
	if err != nil {
		return err
	}
	unended := endNameServer(ctx, c, force)
	if unended != nil && !force {
		return unended
	}
	for _, root := range append([]string{c.CgroupRoot}, c.FormerCgroupRoots...) {
		left, err := netpolicy.Remove(ctx, networkConfig(cfg, root, logger))
		for _, s := range left {
			fmt.Fprintf(out, "left as it is: %s=%s, since something else may need it by now; before phones came it was %s (sysctl -w %s=%s)\n", s.Name, s.Now, s.Before, s.Name, s.Before)
		}
		if err := errors.Join(err, removeAppLists(root)); err != nil {
			return errors.Join(err, unended)
		}
	}
	if unended != nil {
		return fmt.Errorf("the phones' networks are removed, but for the name server's container (to be removed by another call, when containerd answers): %w", unended)
	}
	_, err = fmt.Fprintln(out, "the phones' networks are removed from this host")
	return err
}

// keepAgentAway makes sure that no agent runs with this state directory, nor can start until unlock is called: it takes the lock of its database.
func keepAgentAway(cfg config.Config) (unlock func(), err error) {
	path := filepath.Join(cfg.StateDir, "phonehost.db")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil // no agent ever ran
	}
	if err != nil {
		return nil, fmt.Errorf("see whether the agent runs: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("the agent runs (it has %s): stop it first, with: systemctl stop phonehost.target: %w", path, errdefs.ErrFailedPrecondition)
		}
		return nil, fmt.Errorf("see whether the agent runs: lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// endNameServer removes the name server's container, unless phones run that it answers.
func endNameServer(ctx context.Context, c container.Config, force bool) error {
	c.DisplayBinary = "" // nothing is started
	engine, err := container.New(c)
	if err != nil {
		return fmt.Errorf("whether phones run is not known (--force goes on without): %w", err)
	}
	defer engine.Close()
	if !force {
		if err := noPhoneRuns(ctx, engine); err != nil {
			return err
		}
	}
	host, err := service.New(service.Config{
		Client: engine.Client(), StateDir: c.StateDir, RunDir: c.RunDir, LogDir: c.LogDir, CgroupRoot: c.CgroupRoot, LogBinary: c.LogBinary, Logger: c.Logger,
	})
	if err != nil {
		return err
	}
	return host.Remove(ctx, nameserver.Name)
}

// noPhoneRuns fails with errdefs.ErrFailedPrecondition while guests run, and names some of them.
func noPhoneRuns(ctx context.Context, engine *container.Engine) error {
	ids, err := engine.IDs(ctx)
	if err != nil {
		return err
	}
	var run []string
	for _, id := range ids {
		o, err := engine.Observe(ctx, id)
		if err != nil {
			return err
		}
		if o.Guest.State == container.TaskRunning {
			run = append(run, id)
		}
	}
	if len(run) == 0 {
		return nil
	}
	slices.Sort(run)
	named := strings.Join(run[:min(len(run), 5)], ", ")
	if n := len(run) - 5; n > 0 {
		named += fmt.Sprintf(" and %d more", n)
	}
	return fmt.Errorf("phones run: %s; shut them down first, with: systemctl stop phonehost.target, or take their networks away with --force: %w", named, errdefs.ErrFailedPrecondition)
}
