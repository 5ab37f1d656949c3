package phonetest

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/runtime/container"
)

// Networks is the world's phone.Networks. Beside the other calls for a phone it takes one at a time.
type Networks struct{ *World }

// Ensure implements phone.Networks.
func (n Networks) Ensure(ctx context.Context, p netpolicy.Phone) error {
	return n.network(ctx, "EnsureNetwork", p.ID, func() { n.Nets[p.ID] = p })
}

// Remove implements phone.Networks.
func (n Networks) Remove(ctx context.Context, id string) error {
	return n.network(ctx, "RemoveNetwork", id, func() { delete(n.Nets, id) })
}

// network runs one changing call.
func (n Networks) network(ctx context.Context, name, id string, fn func()) error {
	n.Lock()
	n.Calls = append(n.Calls, name)
	if n.netBusy[id] {
		n.Violation = name + " of " + id + " beside another call for its network"
	}
	n.netBusy[id] = true
	hook := n.Hook
	n.Unlock()
	defer func() { n.Lock(); delete(n.netBusy, id); n.Unlock() }()
	if hook != nil {
		if err := hook(ctx, name+" before", id); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	n.Lock()
	fn()
	n.Unlock()
	if hook != nil {
		return hook(ctx, name+" after", id)
	}
	return nil
}

// CheckForward implements phone.Networks: it asks the world's CheckForward, and refuses nothing without.
func (n Networks) CheckForward(ctx context.Context, f netpolicy.Forward) error {
	n.Lock()
	check := n.World.CheckForward
	n.Unlock()
	if check == nil {
		return nil
	}
	return check(ctx, f)
}

// List implements phone.Networks.
func (n Networks) List() ([]string, error) {
	n.Lock()
	defer n.Unlock()
	var ids []string
	for id := range n.Nets {
		ids = append(ids, id)
	}
	return ids, nil
}

// Displays is the world's phone.Displays.
type Displays struct{ *World }

// Track implements phone.Displays.
func (d Displays) Track(string) error { return nil }

// Close implements phone.Displays.
func (d Displays) Close(string) {}

// HasContent implements phone.Displays.
func (d Displays) HasContent(id string) bool {
	d.Lock()
	defer d.Unlock()
	b := d.Bodies[id]
	return b != nil && b.Guest.State == container.TaskRunning && b.Display.State == container.TaskRunning && !d.Manner.DrawsNothing
}

// WaitReady implements phone.Displays.
func (d Displays) WaitReady(ctx context.Context, id string) error {
	d.Lock()
	exits := d.Manner.DisplayExits
	d.Unlock()
	if exits {
		<-ctx.Done()
		return ctx.Err()
	}
	return d.do(ctx, "WaitReady", id, func(b *Body) error {
		if b.Display.State != container.TaskRunning {
			return fmt.Errorf("connect: %w", errdefs.ErrUnavailable)
		}
		return nil
	})
}
