package ready

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/gobuild"
)

// Build builds a main package of the repository ("runtime/cmd/phone-log") for a machine, or with test the test binary of any package,
// and returns its path. What has parts in C is cross-compiled, and runs on system machines only: for others it is
// ErrFailedPrecondition.
func (s *Source) Build(ctx context.Context, spec Spec, pkg string, test bool) (string, error) {
	cgo, err := gobuild.UsesC(ctx, pkg, test, spec.Arch)
	if err != nil {
		return "", err
	}
	if cgo && !spec.System {
		return "", fmt.Errorf("%s has parts in C, whose libraries only a system machine has: %w", pkg, errdefs.ErrFailedPrecondition)
	}
	env, variant := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + spec.Arch}, spec.Arch
	if cgo {
		variant += "-c"
		if env, err = s.lab.CC(ctx, spec.Arch); err != nil {
			return "", fmt.Errorf("prepare the compiler for %s: %w", spec, err)
		}
	}
	return gobuild.Build(ctx, gobuild.Request{Package: pkg, Test: test, Variant: variant, Env: env, Flags: []string{"-ldflags=-s -w"}})
}
