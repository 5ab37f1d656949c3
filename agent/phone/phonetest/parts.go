package phonetest

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/container"
)

// Networks is the world's phone.Networks. Its calls have no context of their own: Life ends them.
type Networks struct {
	*World
	Life context.Context
}

// Create implements phone.Networks.
func (n Networks) Create(id string) (string, error) {
	err := n.do(n.Life, "CreateNetwork", id, func(*Body) error { n.Nets[id] = true; return nil })
	return "/netns/" + id, err
}

// Delete implements phone.Networks.
func (n Networks) Delete(id string) error {
	return n.do(n.Life, "DeleteNetwork", id, func(*Body) error { delete(n.Nets, id); return nil })
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
