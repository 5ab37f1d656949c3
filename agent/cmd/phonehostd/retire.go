package main

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/agent/nameserver"
	"github.com/phonehost/phonehost/agent/network"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/netns"
	"github.com/phonehost/phonehost/runtime/service"
)

// openLoopback gives phones loopback only, as with networks disabled. What phones have from an agent that had them enabled is opened, to be taken away.
func (a *agent) openLoopback() {
	loopback := network.Loopback{Dir: netns.New(a.netnsDir())}
	former, err := netpolicy.Retire(a.networkConfig())
	switch {
	case err != nil:
		a.notRetired(err)
	case !former.Made():
		err = former.Close()
		if err != nil {
			a.notRetired(err)
		}
	default:
		a.defers(former.Close)
		a.former, loopback.Release = former, former.Release
	}
	a.networks = loopback
}

// notRetired says that networks stay though they are disabled.
func (a *agent) notRetired(err error) {
	a.health.Set(warnNetwork, health.Warning, "networks are disabled, and what phones had of them is still there: "+err.Error()+
		"; restart the agent to try again, or stop it and run: phonehostd network remove")
	a.logger.Warn("networks of phones are not taken away though they are disabled", "error", err)
}

// retireNetworks takes away the networks that phones have from an agent with networks enabled: at once of phones that are off, and of others when
// they have stopped; and the rest after the last. It is called when the phones are adopted, and returns when what can go at once is gone.
func (a *agent) retireNetworks(ctx context.Context) error {
	if a.former == nil {
		return nil
	}
	made, err := a.former.Phones()
	if err != nil {
		a.notRetired(err)
		return nil
	}
	w := a.phones.Watch(nil)
	first, err := w.Next(ctx)
	if err != nil {
		w.Close()
		return err
	}
	left := map[string]bool{} // phones that run and have a network
	for _, c := range first {
		if slices.Contains(made, c.ID) && !isOff(c) {
			left[c.ID] = true
		}
	}
	for _, id := range made {
		if !left[id] {
			err = errors.Join(err, a.former.Release(ctx, id))
		}
	}
	if err != nil {
		w.Close()
		a.notRetired(err)
		return nil
	}
	a.logger.Info("networks are disabled: phones that run keep theirs until they stop", "phones", len(left))
	if len(left) == 0 {
		w.Close()
		a.finishNetworks(ctx)
		return nil
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer w.Close()
		a.releaseStopped(watching, w, left)
	}()
	a.defers(func() error { stop(); <-done; return nil })
	return nil
}

// isOff tells that no guest of the phone runs, nor is about to with the network that it had.
func isOff(c phone.Change) bool {
	return c.Deleted || c.Snapshot.Status == phone.Stopped || c.Snapshot.Status == phone.PoweredOff
}

// releaseStopped takes networks away as their phones stop, and the rest after the last, unless the context ends before.
func (a *agent) releaseStopped(ctx context.Context, w *phone.Watcher, left map[string]bool) {
	for len(left) > 0 {
		changes, err := w.Next(ctx)
		if err != nil {
			return
		}
		if err := a.release(ctx, changes, left); err != nil {
			a.notRetired(err)
			return
		}
	}
	a.finishNetworks(ctx)
}

// release takes away the networks of phones that have stopped, and strikes them off those that are left; and those that a start has taken theirs.
func (a *agent) release(ctx context.Context, changes []phone.Change, left map[string]bool) error {
	var concerned bool
	for _, c := range changes {
		concerned = concerned || left[c.ID]
		if !left[c.ID] || !isOff(c) {
			continue
		}
		if err := a.former.Release(ctx, c.ID); err != nil {
			return err
		}
	}
	if !concerned {
		return nil
	}
	made, err := a.former.Phones()
	if err != nil {
		return err
	}
	maps.DeleteFunc(left, func(id string, _ bool) bool { return !slices.Contains(made, id) })
	return nil
}

// finishNetworks takes away what no phone needs any more.
func (a *agent) finishNetworks(ctx context.Context) {
	host, err := a.services()
	if err == nil {
		err = host.Remove(ctx, nameserver.Name)
	}
	var left []netpolicy.Setting
	if err == nil {
		left, err = a.former.Finish(ctx)
	}
	if err != nil {
		a.notRetired(err)
		return
	}
	for _, s := range left {
		a.logger.Info("a setting of the host's stays as it is, since something else may need it by now", "setting", s.Name, "value", s.Now, "before", s.Before)
	}
	a.logger.Info("what the phones' networks were made of is removed")
}

// services is what runs beside the phones.
func (a *agent) services() (*service.Host, error) {
	return service.New(service.Config{
		Client: a.engine.Client(), StateDir: a.cfg.StateDir, RunDir: a.cfg.RunDir, LogDir: a.cfg.LogDir, CgroupRoot: a.cgroupRoot,
		LogBinary: a.cfg.Runtime.LogBinary, Logger: a.logger,
	})
}
