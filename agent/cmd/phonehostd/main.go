// Command phonehostd is the agent that runs on every host of a cloud-phone fleet: it keeps the phones of the host as they should be and
// serves the API behind its doors. docs/agent.md describes it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/containerd/log"

	"github.com/phonehost/phonehost/agent/config"
)

// version is set by the linker.
var version = "dev"

// commands is the command line.
type commands struct {
	Run     runCommand     `cmd:"" default:"withargs" help:"Run the agent (the default)."`
	Config  configCommands `cmd:"" help:"Print or check a configuration."`
	Version versionCommand `cmd:"" help:"Print the version."`

	Network networkCommands `cmd:"" help:"Take the phones' networks off this host."`

	Canary     canaryCommand `cmd:"" hidden:"" help:"Try what this host's kernel refuses to apps; the agent starts this."`
	DNS        dnsCommand    `cmd:"" name:"dns" help:"Run the name server of the phones; the agent starts this in a container."`
	HoldCgroup holdCommand   `cmd:"" help:"Keep the cgroups of phones under systemd; phonehost-phones.service runs this."`
	EndPhones  endCommand    `cmd:"" help:"Shut all guests down because the host stops, without changing whether phones are on; phonehost-phones.service runs this."`
}

type runCommand struct {
	Config string `help:"Configuration file. Without it ${default_config} is read if it is there." type:"path" placeholder:"FILE"`
}

type configCommands struct {
	Default configDefault `cmd:"" help:"Print the commented default configuration."`
	Check   configCheck   `cmd:"" help:"Check a configuration file."`
}

type configDefault struct{}

type configCheck struct {
	File string `arg:"" help:"Configuration file." type:"path"`
}

type versionCommand struct{}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// The second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	if err := execute(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "phonehostd: %v\n", err)
		os.Exit(1)
	}
}

// execute runs one command line. What a command prints goes to out.
func execute(ctx context.Context, args []string, out io.Writer) error {
	var line commands
	parser, err := kong.New(&line,
		kong.Name("phonehostd"),
		kong.Description("The cloud-phone host agent."),
		kong.Vars{"default_config": config.DefaultPath},
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.BindTo(out, (*io.Writer)(nil)),
		kong.Writers(out, os.Stderr),
	)
	if err != nil {
		return fmt.Errorf("build command line: %w", err)
	}
	command, err := parser.Parse(args)
	if err != nil {
		return fmt.Errorf("%w\nRun phonehostd --help for the right form", err)
	}
	return command.Run()
}

// Run runs the agent until it is signalled.
func (c *runCommand) Run(ctx context.Context) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	logger := newLogger(cfg.Log, os.Stderr)
	slog.SetDefault(logger) // for libraries that know no other
	log.UseSlog()
	return run(ctx, cfg, logger)
}

// load reads the configuration. A file that was named must exist; the default one need not.
func (c *runCommand) load() (config.Config, error) {
	if c.Config != "" {
		return config.Load(c.Config)
	}
	cfg, err := config.Load(config.DefaultPath)
	if errors.Is(err, fs.ErrNotExist) {
		return config.Default(), nil
	}
	return cfg, err
}

// newLogger returns the agent's logger.
func newLogger(cfg config.Log, out io.Writer) *slog.Logger {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	options := &slog.HandlerOptions{Level: levels[cfg.Level]}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(out, options))
	}
	return slog.New(slog.NewTextHandler(out, options))
}

// Run prints the commented default configuration.
func (configDefault) Run(out io.Writer) error {
	_, err := io.WriteString(out, config.Example())
	return err
}

// Run checks a configuration file.
func (c *configCheck) Run(out io.Writer) error {
	if _, err := config.Load(c.File); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%s is valid\n", c.File)
	return err
}

// Run prints the version.
func (versionCommand) Run(out io.Writer) error {
	_, err := fmt.Fprintf(out, "phonehostd %s\n", version)
	return err
}
