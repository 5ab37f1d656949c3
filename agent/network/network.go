// Package network keeps the network policies of this host, and tells what the phones' networks do.
//
// It owns the bucket "policies" of the store (drawn in agent/store) and is the only caller of the policies' part of the engine of
// networks. A policy is stored before the kernel gets it, and removed from the kernel before it is forgotten: what an agent that dies
// leaves half done the next one finishes, before any phone is adopted. Which phone has which policy is package phone's.
//
// What the kernel drops comes from the engine once a second: watchers get it as it comes, the journal summed up. Nothing of it is stored
// but in the journal, and no reader ever holds the kernel up.
//
// Goroutines: a Manager owns one that reads denials, one that reads flows, and one that tries again what could not be put in force; Close
// waits for them. Its methods may be called by many goroutines at once.
package network

import (
	"context"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// Engine is what this package needs of the engine of networks (netpolicy.Engine).
type Engine interface {
	// SetPolicy puts a policy in force under a name, for all its phones at once.
	SetPolicy(ctx context.Context, name string, p policy.Policy) error
	// DropPolicy forgets one; no error when it is not there. ErrFailedPrecondition while a phone's network has it.
	DropPolicy(ctx context.Context, name string) error
	// Status returns what there is of a phone's network; ErrNotFound when there is none.
	Status(ctx context.Context, id string) (netpolicy.Status, error)
	// Flows returns the live flows of a phone; ErrNotFound when it has no network.
	Flows(ctx context.Context, id string) ([]netpolicy.Flow, error)
	// Test tells what would become of a flow; ErrNotFound when the phone has no network.
	Test(ctx context.Context, id string, probe netpolicy.Probe) (netpolicy.Decision, error)
	// Denials reports what was dropped, alike packets of a second together, until the context ends.
	Denials(ctx context.Context) <-chan []netpolicy.Denial
	// WatchFlows reports sampled flows that begin and end, until the context ends.
	WatchFlows(ctx context.Context) <-chan netpolicy.Flow
}
