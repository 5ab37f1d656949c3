package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/agent/nameserver"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/netpolicy/resolver"
	"github.com/phonehost/phonehost/runtime/service"
)

// openNameServer keeps the phones' name server running, which goes on when the agent ends. Where phones have no network there is none.
func (a *agent) openNameServer(ctx context.Context) error {
	host, err := a.services()
	if err != nil {
		return err
	}
	if !a.cfg.Network.Enabled && a.former == nil {
		return host.Remove(ctx, nameserver.Name)
	}
	if a.netpolicy == nil {
		return nil // the reason is in the health registry, or phones run that the server answers until they stop
	}
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	leads, err := nameserver.WatchResolvConf(keeping, nameserver.DefaultResolvConf)
	if err != nil {
		stop()
		a.onNameServer(service.Change{Err: err})
		return nil // phones and the API do not depend on it
	}
	specs := make(chan service.Spec)
	var tasks sync.WaitGroup
	tasks.Go(func() { a.describeNameServer(keeping, leads, specs) })
	former := func() {}
	tasks.Go(func() {
		host.Keep(keeping, specs, func(c service.Change) {
			a.onNameServer(c)
			former()
			if c.Err != nil || c.Ended {
				return
			}
			reading, end := context.WithCancel(keeping)
			former = end
			tasks.Go(func() { a.readRefusals(reading, c.Instance) })
		})
	})
	a.defers(func() error {
		stop()
		tasks.Wait()
		return nil
	})
	return nil
}

// describeNameServer says how the name server runs, and again when the host's resolv.conf leads elsewhere: then another is started, and the
// former ends. One that cannot be described is left as it runs.
func (a *agent) describeNameServer(ctx context.Context, leads <-chan string, specs chan<- service.Spec) {
	for to := range leads {
		spec, err := a.nameServer()
		if err != nil {
			a.onNameServer(service.Change{Err: err})
			continue
		}
		a.logger.Debug("the host's name servers", "file", to)
		select {
		case specs <- spec:
		case <-ctx.Done():
		}
	}
}

// nameServer says how the name server runs. Its user is the one before the displays'.
func (a *agent) nameServer() (service.Spec, error) {
	program, err := os.Executable()
	if err != nil {
		return service.Spec{}, fmt.Errorf("find the program of the name server, which is this one: %w", err)
	}
	uid, pins := a.cfg.Display.UIDBase-1, pinDir(a.cgroupRoot)
	if err := resolver.Grant(pins, int(uid)); err != nil {
		return service.Spec{}, err
	}
	return nameserver.Spec(nameserver.Config{
		Program: program, UID: uid, Gateways: a.netpolicy.Gateways(), Pins: pins, State: nameServerState(a.cfg),
	})
}

// onNameServer writes what becomes of the name server into the health registry and the journal.
func (a *agent) onNameServer(c service.Change) {
	a.names.Use(nil)
	switch {
	case c.Err != nil:
		a.health.Set(warnNames, health.Error, "the phones' name server does not run, so their names do not resolve: "+c.Err.Error())
		a.logger.Warn("the name server does not run; it is tried again", "error", c.Err)
	case c.Ended:
		a.health.Set(warnNames, health.Error, fmt.Sprintf("the phones' name server ended with code %d and is started again", c.Instance.ExitCode))
		a.journal.Emit(event.Event{
			Kind: event.NameServerExited, Message: "the phones' name server ended",
			Attributes: map[string]string{"exit_code": strconv.FormatUint(uint64(c.Instance.ExitCode), 10)},
		})
	default:
		a.names.Use(&c.Instance)
		a.health.Clear(warnNames)
		a.logger.Info("the phones' name server runs", "container", c.Instance.ID, "pid", c.Instance.PID)
	}
}

// countTime bounds how long a scrape waits for what the name server has counted.
const countTime = time.Second

// nameServerTotals is what the name servers have counted.
func (a *agent) nameServerTotals() nameserver.Totals {
	ctx, cancel := context.WithTimeout(context.Background(), countTime)
	defer cancel()
	return a.names.Read(ctx)
}

// denialPause is the least time between two answers about names that were refused: what comes meanwhile is told together.
const denialPause = time.Second

// readRefusals reports the names that a name server refuses, until the context ends or the server does.
func (a *agent) readRefusals(ctx context.Context, i service.Instance) {
	control := nameserver.Control(i)
	for {
		list, err := control.AwaitDenials(ctx)
		if err != nil {
			if ctx.Err() == nil {
				a.logger.Debug("what the name server refuses is not reported any more", "container", i.ID, "error", err)
			}
			return
		}
		denials := make([]netpolicy.Denial, 0, len(list))
		for _, d := range list {
			denials = append(denials, netpolicy.Denial{
				Phone: a.netpolicy.PhoneIn(d.Slot), Direction: policy.Egress, Name: d.Name, Reason: "NAME", Rule: d.Rule, Count: d.Count, First: d.First, Last: d.Last,
			})
		}
		if a.network.Refused(ctx, denials) != nil {
			return
		}
		select {
		case <-time.After(denialPause):
		case <-ctx.Done():
			return
		}
	}
}
