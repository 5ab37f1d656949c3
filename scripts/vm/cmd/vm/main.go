// Command vm builds what the VM lab boots, shows, renews and removes it, and gives a shell in a machine of the lab. scripts/vm/lab.toml
// says what there is; everything is kept in the cache of scripts/vm/asset. It changes nothing else on the computer.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/vm/lab"
	"github.com/phonehost/phonehost/scripts/vm/ready"
)

// cli are the commands; each has a file of its own.
type cli struct {
	Cache  string `help:"Directory of the cache." env:"PHONEHOST_VM_CACHE" placeholder:"DIR"`
	Mirror string `help:"URI of the Debian archive, instead of the one in apt's sources." env:"PHONEHOST_VM_MIRROR" placeholder:"URI"`

	Build   buildCmd   `cmd:"" help:"Build all that machines are made of."`
	List    listCmd    `cmd:"" help:"Show what is built, and of which packages."`
	Lock    lockCmd    `cmd:"" help:"Take the newest packages of the suites, and print what changed."`
	Clean   cleanCmd   `cmd:"" help:"Remove everything from the cache."`
	Shell   shellCmd   `cmd:"" help:"Start a machine, and a shell or a command in it."`
	Sysroot sysrootCmd `cmd:"" help:"Build what C programs for an architecture are compiled against, and print its directory."`
	CC      ccCmd      `cmd:"" name:"cc" help:"Run a go command that compiles C for an architecture, or print the environment that makes it do so."`
}

// run is what commands are given.
type run struct {
	ctx context.Context
	in  io.Reader
	out io.Writer
	err io.Writer
	log *slog.Logger
	cfg lab.Config
}

// exitError ends this program with a code of its own, of which a command has told all there is to tell.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	os.Exit(execute(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// execute runs a command and returns the exit code: 2 for one that cannot be meant, 1 for one that went wrong.
func execute(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup wants it
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	var c cli
	exit := -1
	parser, err := kong.New(&c, kong.Name("vm"), kong.UsageOnError(), kong.Writers(stdout, stderr), kong.Exit(func(code int) { exit = code }),
		kong.Description("Build what the VM lab boots, and use it; see docs/vm-lab.md."),
		kong.Vars{"arch": runtime.GOARCH, "variants": variantNames()})
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
	r := run{ctx: ctx, in: stdin, out: stdout, err: stderr, log: log, cfg: lab.Config{CacheDir: c.Cache, Mirror: c.Mirror, Logger: log}}
	err = parsed.Run(&r)
	if code := exitError(0); errors.As(err, &code) {
		return int(code)
	}
	switch {
	case err == nil:
		return 0
	case errdefs.IsInvalidArgument(err):
		fmt.Fprintln(stderr, "vm:", err)
		return 2
	}
	fmt.Fprintln(stderr, "vm:", err)
	return 1
}

// variantNames are the names of all variants, for people.
func variantNames() string {
	var names []string
	for _, v := range ready.Variants() {
		names = append(names, v.Name())
	}
	return strings.Join(names, ", ")
}

// plain leaves the date out of log lines: a person reads them as they come.
func plain(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(groups) == 0 {
		return slog.String(slog.TimeKey, a.Value.Time().Format("15:04:05"))
	}
	return a
}
