// Command phonectl talks to phonehostd. Everything it does is in agent/cli; here are only the process's arguments, streams
// and signals.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/phonehost/phonehost/agent/cli"
)

// version is set when released: -ldflags "-X main.version=1.2.3".
var version = "dev"

func main() {
	os.Exit(run())
}

func run() int {
	// The first signal ends what is being waited for; from then on the second ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	return cli.Run(ctx, cli.Config{
		Args:  os.Args[1:],
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Version: version,
	})
}
