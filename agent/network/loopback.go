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
type Loopback struct{ Dir netns.Dir }

// Ensure makes the phone's namespace unless it is there.
func (l Loopback) Ensure(_ context.Context, p netpolicy.Phone) error {
	_, err := l.Dir.Create(p.ID)
	return err
}

// CheckForward refuses every forward: nothing leads to such phones.
func (l Loopback) CheckForward(_ context.Context, f netpolicy.Forward) error {
	return fmt.Errorf("forward from %s: phones of this host have loopback alone: %w", f.Listen, errdefs.ErrFailedPrecondition)
}

// Remove removes it; no error when it is not there.
func (l Loopback) Remove(_ context.Context, id string) error { return l.Dir.Delete(id) }

// List names the phones that have one.
func (l Loopback) List() ([]string, error) { return l.Dir.List() }
