package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/scripts/vm/lab"
)

// workers is how many assets are built at once: one fetches and writes while the others compute.
const workers = 3

// unused is how long an asset is kept that no build and no machine asks for.
const unused = 7 * 24 * time.Hour

type buildCmd struct {
	What []string `arg:"" optional:"" help:"Architectures and kernel series, such as arm64 6.12. None means all." placeholder:"ARCH|SERIES"`
}

// Run builds kernels, initrds, roots and sysroots, and removes assets that nothing has used for a week.
func (c *buildCmd) Run(r *run) error {
	l, err := lab.Open(r.cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	arches, series, err := choose(c.What, l.Architectures(), l.Series())
	if err != nil {
		return err
	}
	start := time.Now()
	group, ctx := errgroup.WithContext(r.ctx)
	group.SetLimit(workers)
	// The longest first.
	additions := l.Additions()
	for _, addition := range append([]string{""}, additions...) { // the ordinary root is without any
		for _, arch := range arches {
			group.Go(func() error { _, err := l.RootWith(ctx, arch, addition); return err })
		}
	}
	for _, s := range slices.Backward(series) {
		for _, arch := range arches {
			group.Go(func() error { return buildKernel(ctx, l, arch, s, additions) })
		}
	}
	for _, arch := range arches {
		group.Go(func() error { _, err := l.Sysroot(ctx, arch); return err })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	old, err := l.Cache().Prune(unused)
	if err != nil {
		return err
	}
	for _, a := range old {
		r.log.Info("removed a VM asset that nothing used", "asset", a.Name, "key", a.Key, "used", a.Used)
	}
	fmt.Fprintf(r.out, "kernels %s, roots and sysroots for %s are ready in %s (%.1f s)\n", strings.Join(series, ", "), strings.Join(arches, ", "),
		l.Cache().Dir(), time.Since(start).Seconds())
	return nil
}

// buildKernel builds a kernel with its initrd, and its modules with each of the additions.
func buildKernel(ctx context.Context, l *lab.Lab, arch, series string, additions []string) error {
	k, err := l.Kernel(ctx, arch, series)
	if err != nil {
		return err
	}
	for _, addition := range additions {
		if _, err := l.KernelWith(ctx, k, addition); err != nil {
			return err
		}
	}
	_, err = l.Initrd(ctx, k)
	return err
}

// choose tells architectures from series; none of a kind means all of it.
func choose(words, allArches, allSeries []string) (arches, series []string, err error) {
	for _, w := range words {
		switch {
		case slices.Contains(allArches, w):
			arches = append(arches, w)
		case slices.Contains(allSeries, w):
			series = append(series, w)
		default:
			return nil, nil, fmt.Errorf("%q is neither an architecture (%s) nor a kernel series (%s) of scripts/vm/lab.toml: %w",
				w, strings.Join(allArches, ", "), strings.Join(allSeries, ", "), errdefs.ErrInvalidArgument)
		}
	}
	if len(arches) == 0 {
		arches = allArches
	}
	if len(series) == 0 {
		series = allSeries
	}
	return arches, series, nil
}
