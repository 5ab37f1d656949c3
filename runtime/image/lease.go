package image

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
)

// leaseTime bounds how long content is kept that an import or an unpacking brought and a crash left unfinished, where no other agent
// comes to release it.
const leaseTime = time.Hour

// labelLease is on every lease that is made here.
const labelLease = "dev.phonehost.lease"

// leaseOptions are those of a new lease.
func leaseOptions() []leases.Opt {
	return []leases.Opt{leases.WithRandomID(), leases.WithExpiration(leaseTime), leases.WithLabels(map[string]string{labelLease: "image"})}
}

// lease keeps content that belongs to nothing yet. release ends it; with collect, what it alone kept is gone when release returns.
func (s *Store) lease(ctx context.Context) (context.Context, func(collect bool), error) {
	service := s.client.LeasesService()
	l, err := service.Create(ctx, leaseOptions()...)
	if err != nil {
		return nil, nil, fmt.Errorf("create lease: %w", err)
	}
	return leases.WithLease(ctx, l.ID), func(collect bool) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		var opts []leases.DeleteOpt
		if collect {
			opts = append(opts, leases.SynchronousDelete)
		}
		// A lease that cannot be deleted expires by itself.
		_ = service.Delete(ctx, l, opts...)
	}, nil
}

// Recover releases what a dead agent was about to import, unpack or read, and returns when it is gone. It is for the start, before any other
// call: it would end the imports of an agent that lives.
func (s *Store) Recover(ctx context.Context) error {
	service := s.client.LeasesService()
	stale, err := service.List(ctx, fmt.Sprintf("labels.%q", labelLease))
	if err != nil {
		return fmt.Errorf("list the leases of unfinished imports: %w", err)
	}
	errs := []error{s.sweepMounts()}
	for i, l := range stale {
		var opts []leases.DeleteOpt
		if i == len(stale)-1 {
			opts = append(opts, leases.SynchronousDelete)
		}
		if err := service.Delete(ctx, l, opts...); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("release an unfinished import: %w", err))
		}
	}
	return errors.Join(errs...)
}
