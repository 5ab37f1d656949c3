package volume

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/crashpoint"
)

// Clone makes a volume of what is in another, with a UUID of its own, unless there is one at path. Where the host's file system has
// reflinks the two share their blocks until one of them writes, and shared is true; otherwise only what the source's image has allocated
// is copied. The clone is as large as the source: see Grow.
//
// Like Create it leaves PATH.new at most. The source is not changed, and cannot be attached meanwhile. Errors: ErrInUse if the source is;
// errdefs.ErrFailedPrecondition if it wants a check first.
func Clone(ctx context.Context, source, path string) (shared bool, err error) {
	from, err := lockFree(ctx, source, unix.LOCK_SH, mountGrace)
	if err != nil {
		return false, fmt.Errorf("clone: %w", err)
	}
	defer from.Close()
	if reason, err := suspicion(source); err != nil {
		return false, fmt.Errorf("clone: %w", err)
	} else if reason != "" {
		return false, fmt.Errorf("clone volume %s: %s: check it first: %w", source, reason, errdefs.ErrFailedPrecondition)
	}
	err = appear(ctx, path, func(image *os.File) error {
		var err error
		if shared, err = copyImage(ctx, from, image); err != nil {
			return fmt.Errorf("copy %s: %w", source, err)
		}
		if err := crashpoint.Fail("volume/copied"); err != nil {
			return err
		}
		err = succeed(ctx, image, "tune2fs", "-U", "random", image.Name())
		crashpoint.Reached("volume/renumbered")
		return err
	})
	return shared, err
}
