package applet

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testphone/binder"
)

// binderDevice is where Android's framework has its services.
const binderDevice = "/dev/binder"

// binderTime is how long a service may take for an answer.
const binderTime = 30 * time.Second

const serviceUsage = "service list | check NAME | ping [NAME] | add NAME"

// service asks the service manager, as Android's does, or adds a service to it. ping calls an object, the service manager's own if none is
// named, and tells how long that took; add lets a service be found and pinged until it is ended.
func service(ctx context.Context, s Streams, args []string) error {
	if len(args) == 0 {
		return usage(serviceUsage)
	}
	ask := func(fn func(context.Context, *binder.Conn) error) error {
		ctx, cancel := context.WithTimeout(ctx, binderTime)
		defer cancel()
		return binder.Do(binderDevice, nil, func(c *binder.Conn) error { return fn(ctx, c) })
	}
	switch action, names := args[0], args[1:]; {
	case action == "list" && len(names) == 0:
		return ask(func(ctx context.Context, c *binder.Conn) error { return listServices(ctx, s, c) })
	case action == "check" && len(names) == 1:
		return ask(func(ctx context.Context, c *binder.Conn) error { return checkService(ctx, s, c, names[0]) })
	case action == "ping" && len(names) <= 1:
		return ask(func(ctx context.Context, c *binder.Conn) error { return pingService(ctx, s, c, names) })
	case action == "add" && len(names) == 1:
		return addService(ctx, s, names[0])
	}
	return usage(serviceUsage)
}

func listServices(ctx context.Context, s Streams, c *binder.Conn) error {
	names, err := c.ListServices(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "Found %d services:\n", len(names))
	for i, name := range names {
		iface := ""
		handle, err := c.CheckService(ctx, name)
		if err == nil {
			iface, err = c.Interface(ctx, handle)
		}
		if err != nil && ctx.Err() != nil {
			return err
		}
		fmt.Fprintf(s.Out, "%d\t%s: [%s]\n", i, name, iface) // empty for one that has gone meanwhile
	}
	return nil
}

func checkService(ctx context.Context, s Streams, c *binder.Conn, name string) error {
	_, err := c.CheckService(ctx, name)
	switch {
	case errdefs.IsNotFound(err):
		fmt.Fprintf(s.Out, "Service %s: not found\n", name)
	case err != nil:
		return err
	default:
		fmt.Fprintf(s.Out, "Service %s: found\n", name)
	}
	return nil
}

func pingService(ctx context.Context, s Streams, c *binder.Conn, names []string) error {
	name, handle := "the service manager", uint32(0)
	if len(names) > 0 {
		var err error
		name = names[0]
		if handle, err = c.CheckService(ctx, name); err != nil {
			return err
		}
	}
	start := time.Now()
	if err := c.Ping(ctx, handle); err != nil {
		return fmt.Errorf("ping %s: %w", name, err)
	}
	fmt.Fprintf(s.Out, "ping %s: answered after %d us\n", name, time.Since(start).Microseconds())
	return nil
}

func addService(ctx context.Context, s Streams, name string) error {
	ctx, cancel := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer cancel()
	err := binder.Do(binderDevice, binder.Service{Name: "testphone." + name}, func(c *binder.Conn) error {
		if err := c.AddService(ctx, name, 1); err != nil {
			return err
		}
		fmt.Fprintf(s.Out, "Service %s: added\n", name)
		return c.Serve(ctx)
	})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
