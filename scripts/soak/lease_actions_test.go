package soak

import (
	"context"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// leaseTime is how soon a lease ends that is to end: after the request that sets it, and in the middle of another agent's start when
// that one is killed.
const leaseTime = 700 * time.Millisecond

// leaseActions are the end of a lease under a running phone, and its renewal.
func leaseActions() []action {
	type ctx = context.Context
	type op = *phonehostv1.Operation
	return []action{
		{name: "lease_ends", from: running, to: expired, ask: askLeaseEnds},
		{name: "renew", from: expired, to: renewed, ask: func(x ctx, c call) (op, error) {
			return askLease(x, c, c.before.GetCreateTime().AsTime().Add(7*24*time.Hour))
		}},
	}
}

func askLease(ctx context.Context, c call, end time.Time) (*phonehostv1.Operation, error) {
	return askUpdate(ctx, c, &phonehostv1.PhoneSpec{Lease: &phonehostv1.Lease{ExpiresAt: timestamppb.New(end)}}, "lease")
}

// askLeaseEnds sets an end that is near. Every try has the same one. When it is refused because it has passed, no earlier try was taken,
// and another is set.
func askLeaseEnds(ctx context.Context, c call) (*phonehostv1.Operation, error) {
	if c.h.leases == nil {
		c.h.leases = map[string]time.Time{}
	}
	if c.h.leases[c.request].IsZero() {
		c.h.leases[c.request] = time.Now().Add(leaseTime)
	}
	op, err := askLease(ctx, c, c.h.leases[c.request])
	if status.Code(err) == codes.InvalidArgument && time.Now().After(c.h.leases[c.request]) {
		delete(c.h.leases, c.request)
		return askLeaseEnds(ctx, c)
	}
	return op, err
}
