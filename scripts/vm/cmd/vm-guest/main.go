// Command vm-guest is the program inside a machine of the VM lab: /init of its initrd, the service that carries out what the
// host asks for, and modprobe where there is no other. It is static, and does nothing on a computer that is no such machine.
//
//	vm-guest                     as process 1: boot the machine
//	vm-guest serve               carry out the host's requests
//	vm-guest modprobe NAME...    load modules; also when called as modprobe
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/phonehost/phonehost/scripts/vm/guest"
)

func main() {
	args := os.Args[1:]
	var err error
	switch {
	case os.Getpid() == 1:
		err = guest.Init()
		// Process 1 must not end. A panic of the kernel says what happened, and lets the host see that the boot came to nothing.
		fmt.Fprintln(os.Stderr, "vm-guest: the machine cannot boot:", err)
		os.Exit(1)
	case filepath.Base(os.Args[0]) == "modprobe":
		err = guest.Modprobe(args)
	case len(args) == 1 && args[0] == "serve":
		err = serve()
	case len(args) > 0 && args[0] == "modprobe":
		err = guest.Modprobe(args[1:])
	default:
		err = fmt.Errorf("want vm-guest serve or vm-guest modprobe NAME, in a machine of the VM lab")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm-guest:", err)
		os.Exit(1)
	}
}

func serve() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return guest.Serve(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}
