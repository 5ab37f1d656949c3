package network

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/netns"
)

// Unavailable refuses every phone a network, for a reason: what there is on a host that cannot have networks though they are enabled. It
// implements phone.Networks. What phones have is left alone, but a phone that is deleted loses its namespace.
type Unavailable struct {
	Dir netns.Dir
	Err error
}

// Ensure fails with errdefs.ErrFailedPrecondition and the reason.
func (u Unavailable) Ensure(_ context.Context, p netpolicy.Phone) error {
	return fmt.Errorf("network of %s: this host cannot have networks of phones: %v: %w", p.ID, u.Err, errdefs.ErrFailedPrecondition)
}

// CheckForward fails as Ensure does.
func (u Unavailable) CheckForward(_ context.Context, f netpolicy.Forward) error {
	return fmt.Errorf("forward from %s: this host cannot have networks of phones: %v: %w", f.Listen, u.Err, errdefs.ErrFailedPrecondition)
}

// Remove removes the phone's namespace, and its link with it; no error when there is none.
func (u Unavailable) Remove(_ context.Context, id string) error { return u.Dir.Delete(id) }

// List names the phones that have a namespace.
func (u Unavailable) List() ([]string, error) { return u.Dir.List() }
