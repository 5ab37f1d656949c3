package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/phonehost/phonehost/runtime/profile"
	"github.com/phonehost/phonehost/runtime/volume"
)

// reasonTime bounds how long a data volume is waited for to read why its guest has ended. A phone that is to boot again waits as long.
const reasonTime = 5 * time.Second

// BootReason reads from the data volume of the phone's generation why its guest last shut down. The guest has ended; its mount, which
// goes with its last process, is waited for. Nothing of the volume is changed, and nothing holds it when BootReason returns. A volume
// that says nothing gives the zero BootReason.
//
// Errors: errdefs.ErrNotFound if there is no volume; errdefs.ErrFailedPrecondition if the guest still runs; errdefs.ErrInvalidArgument
// for a file that is not what Android writes; what the kernel says of the file system otherwise.
func (e *Engine) BootReason(ctx context.Context, p Phone) (profile.BootReason, error) {
	ctx, cancel := context.WithTimeout(ctx, reasonTime)
	defer cancel()
	reason, err := e.bootReason(ctx, p)
	if err != nil {
		return profile.BootReason{}, fmt.Errorf("data of %s: %w", p.ID, err)
	}
	return reason, nil
}

func (e *Engine) bootReason(ctx context.Context, p Phone) (reason profile.BootReason, err error) {
	path, err := e.existingData(p)
	if err != nil {
		return reason, err
	}
	mount, err := volume.Open(ctx, path, true)
	if err != nil {
		return reason, err
	}
	defer func() { err = errors.Join(err, mount.Close()) }()
	return profile.ReadBootReason(mount.Root().FS())
}
