// Command vm builds what the VM lab boots, and shows, renews and removes it. scripts/vm/lab.toml says what that is; everything is kept
// in the cache of scripts/vm/asset. It changes nothing else on the machine.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/phonehost/phonehost/scripts/vm/lab"
)

// cli are the commands; each has a file of its own.
type cli struct {
	Cache  string `help:"Directory of the cache." env:"PHONEHOST_VM_CACHE" placeholder:"DIR"`
	Mirror string `help:"URI of the Debian archive, instead of the one in apt's sources." env:"PHONEHOST_VM_MIRROR" placeholder:"URI"`

	Build   buildCmd   `cmd:"" help:"Build all that machines are made of."`
	List    listCmd    `cmd:"" help:"Show what is built, and of which packages."`
	Lock    lockCmd    `cmd:"" help:"Take the newest packages of the suites, and print what changed."`
	Clean   cleanCmd   `cmd:"" help:"Remove everything from the cache."`
	Sysroot sysrootCmd `cmd:"" help:"Build what C programs for an architecture are compiled against, and print its directory."`
}

// run is what commands are given.
type run struct {
	ctx context.Context
	out io.Writer
	log *slog.Logger
	cfg lab.Config
}

func main() {
	os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr))
}

func execute(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c cli
	exit := -1
	parser, err := kong.New(&c, kong.Name("vm"), kong.UsageOnError(), kong.Writers(stdout, stderr), kong.Exit(func(code int) { exit = code }),
		kong.Description("Build what the VM lab boots; see docs/vm-lab.md."))
	if err != nil {
		fmt.Fprintln(stderr, "vm:", err)
		return 1
	}
	parsed, err := parser.Parse(args)
	if exit >= 0 {
		return exit
	}
	if err != nil {
		fmt.Fprintln(stderr, "vm:", err)
		return 2
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{ReplaceAttr: plain}))
	r := run{ctx: ctx, out: stdout, log: log, cfg: lab.Config{CacheDir: c.Cache, Mirror: c.Mirror, Logger: log}}
	if err := parsed.Run(&r); err != nil {
		fmt.Fprintln(stderr, "vm:", err)
		return 1
	}
	return 0
}

// plain leaves the date out of log lines: a person reads them as they come.
func plain(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(groups) == 0 {
		return slog.String(slog.TimeKey, a.Value.Time().Format("15:04:05"))
	}
	return a
}
