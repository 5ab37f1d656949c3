package main

import (
	"context"
	"time"

	"github.com/phonehost/phonehost/agent/network"
)

// networkTotalsTime bounds a look at the counters of all phones.
const networkTotalsTime = 5 * time.Second

// networkTotals adds up what the networks of all phones have counted.
func (a *agent) networkTotals() (network.Totals, error) {
	if a.network == nil {
		return network.Totals{}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), networkTotalsTime)
	defer cancel()
	snaps := a.phones.List()
	ids := make([]string, 0, len(snaps))
	for _, snap := range snaps {
		ids = append(ids, snap.Record.Spec.ID)
	}
	return a.network.Totals(ctx, ids)
}
