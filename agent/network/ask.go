package network

import (
	"context"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy"
)

// Status returns what there is of a phone's network; the zero value when there is nothing.
func (m *Manager) Status(ctx context.Context, id string) (netpolicy.Status, error) {
	s, err := m.cfg.Engine.Status(ctx, id)
	if errdefs.IsNotFound(err) {
		return netpolicy.Status{}, nil
	}
	return s, err
}

// Flows returns the live flows of a phone; none when it has no network.
func (m *Manager) Flows(ctx context.Context, id string) ([]netpolicy.Flow, error) {
	flows, err := m.cfg.Engine.Flows(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return flows, err
}

// Test tells what would become of a flow of a phone.
func (m *Manager) Test(ctx context.Context, id string, probe netpolicy.Probe) (netpolicy.Decision, error) {
	return m.cfg.Engine.Test(ctx, id, probe)
}
