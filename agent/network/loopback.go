package network

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/netns"
)

// Loopback gives every phone a network namespace of its own with loopback, and nothing else: what phones have where networks are
// disabled. It implements phone.Networks.
type Loopback struct {
	Dir netns.Dir
	// Release takes away the network that the phone has from an agent with networks enabled; nil where no phone has one.
	Release func(ctx context.Context, id string) error
}

// Ensure makes the phone's namespace unless it is there, and takes away what it has but loopback. It is called for phones that start.
func (l Loopback) Ensure(ctx context.Context, p netpolicy.Phone) error {
	if err := l.release(ctx, p.ID); err != nil {
		return err
	}
	_, err := l.Dir.Create(p.ID)
	return err
}

// CheckForward refuses every forward: nothing leads to such phones.
func (l Loopback) CheckForward(_ context.Context, f netpolicy.Forward) error {
	return fmt.Errorf("forward from %s: phones of this host have loopback alone: %w", f.Listen, errdefs.ErrFailedPrecondition)
}

// Remove removes it; no error when it is not there.
func (l Loopback) Remove(ctx context.Context, id string) error {
	if err := l.release(ctx, id); err != nil {
		return err
	}
	return l.Dir.Delete(id)
}

func (l Loopback) release(ctx context.Context, id string) error {
	if l.Release == nil {
		return nil
	}
	return l.Release(ctx, id)
}

// List names the phones that have one.
func (l Loopback) List() ([]string, error) { return l.Dir.List() }
