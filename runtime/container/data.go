package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/crashpoint"
	"github.com/phonehost/phonehost/runtime/volume"
)

// CheckData brings the data volume of the phone's generation in order after an unclean end, and says what it found. Prepare does the
// same and keeps what it found to itself: who wants to know calls CheckData before. A volume that does not exist, or that the guest
// runs on, is clean.
//
// The error is errdefs.ErrDataLoss, with the outcome volume.BeyondRepair, for a file system that cannot be mended; it is left for a person.
func (e *Engine) CheckData(ctx context.Context, p Phone) (volume.Report, error) {
	report, _, err := e.checkData(ctx, p)
	return report, err
}

// checkData also reports whether the volume is in use, and so was not looked at.
func (e *Engine) checkData(ctx context.Context, p Phone) (report volume.Report, used bool, err error) {
	report, err = volume.Check(ctx, e.dataImage(p.ID, p.DataGeneration))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return volume.Report{}, false, nil
	case errors.Is(err, volume.ErrInUse):
		return volume.Report{}, true, nil
	case err != nil:
		return report, false, fmt.Errorf("data of %s: %w", p.ID, err)
	}
	if report.Outcome != volume.Clean {
		e.log.Warn("the data file system was not in order", "phone_id", p.ID, "generation", p.DataGeneration, "outcome", report.Outcome.String(),
			"reason", report.Reason, "summary", report.Summary)
	}
	return report, false, nil
}

// prepareData makes the data volume, or brings the one that is there in order and to its size. One that the guest runs on is left.
func (e *Engine) prepareData(ctx context.Context, p Phone) error {
	path := e.dataImage(p.ID, p.DataGeneration)
	if err := volume.Create(ctx, path, p.DataBytes); err != nil {
		return fmt.Errorf("data of %s: %w", p.ID, err)
	}
	_, used, err := e.checkData(ctx, p)
	if used || err != nil {
		return err
	}
	size, err := volume.FileSystemBytes(path)
	if err == nil && size < p.DataBytes {
		err = volume.Grow(ctx, path, p.DataBytes)
	}
	if err != nil {
		return fmt.Errorf("data of %s: %w", p.ID, err)
	}
	return nil
}

// GrowData makes the data volume of the phone's generation as large as Phone.DataBytes says, whether the guest runs or not: it sees
// the room at once. A volume that does not exist yet is made that large by Prepare, which also finishes what a crash cut off. Errors:
// errdefs.ErrInvalidArgument for less than it has; errdefs.ErrFailedPrecondition if it can only grow while the phone is off.
func (e *Engine) GrowData(ctx context.Context, p Phone) error {
	path, err := e.existingData(p)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err == nil {
		err = volume.Grow(ctx, path, p.DataBytes)
	}
	if err != nil {
		return fmt.Errorf("data of %s: %w", p.ID, err)
	}
	return nil
}

// TrimData gives the blocks that the phone's data volume does not use back to the host, whether the guest runs or not, and returns how many
// bytes were found to give.
func (e *Engine) TrimData(ctx context.Context, p Phone) (bytes uint64, err error) {
	path, err := e.existingData(p)
	if err == nil {
		bytes, err = volume.Trim(ctx, path)
	}
	if err != nil {
		return bytes, fmt.Errorf("data of %s: %w", p.ID, err)
	}
	return bytes, nil
}

// existingData returns the path of the data volume of the phone's generation; errdefs.ErrNotFound if there is none.
func (e *Engine) existingData(p Phone) (string, error) {
	if !validID(p.ID) {
		return "", fmt.Errorf("phone id %q: %w", p.ID, errdefs.ErrInvalidArgument)
	}
	path := e.dataImage(p.ID, p.DataGeneration)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no volume of generation %d: %w", p.DataGeneration, errdefs.ErrNotFound)
	} else if err != nil {
		return "", err
	}
	return path, nil
}

// CloneData makes the data volume of to's generation a copy of from's, unless there is one: what Prepare would make empty. Neither
// guest runs. shared tells that the two take no more space than one until they differ. After a crash there is a whole copy or none. What
// from has is brought in order first, as by CheckData.
//
// Errors: errdefs.ErrNotFound if from has no data; errdefs.ErrFailedPrecondition if its guest runs or its data is being exported;
// errdefs.ErrInvalidArgument if to is smaller; errdefs.ErrDataLoss if what from has is beyond repair.
func (e *Engine) CloneData(ctx context.Context, from, to Phone) (shared bool, err error) {
	source, err := e.existingData(from)
	if err != nil {
		return false, fmt.Errorf("clone the data of %s: %w", from.ID, err)
	}
	_, _, err = e.checkData(ctx, from)
	var size uint64
	if err == nil {
		size, err = volume.FileSystemBytes(source)
	}
	if err == nil && size > to.DataBytes {
		err = fmt.Errorf("it has %d bytes and %s only %d: %w", size, to.ID, to.DataBytes, errdefs.ErrInvalidArgument)
	}
	if err == nil {
		err = e.makeStateDir(to.ID)
	}
	if err == nil {
		shared, err = volume.Clone(ctx, source, e.dataImage(to.ID, to.DataGeneration))
	}
	if err != nil {
		return false, fmt.Errorf("clone the data of %s for %s: %w", from.ID, to.ID, err)
	}
	return shared, nil
}

// removeData removes the data volumes of those generations that match. It is on the disk when it returns: no crash brings them back.
func (e *Engine) removeData(ctx context.Context, id string, match func(generation uint64) bool) error {
	generations, err := e.dataGenerations(id)
	if err != nil {
		return err
	}
	for _, n := range generations {
		if !match(n) {
			continue
		}
		if err := volume.Remove(ctx, e.dataImage(id, n)); err != nil {
			return fmt.Errorf("remove old data of %s: %w", id, err)
		}
		crashpoint.Reached("keep/data_removed")
	}
	return nil
}

// removeState removes all data volumes of a phone and then its directory. A volume that is in use stays, and the directory with it.
func (e *Engine) removeState(ctx context.Context, id string) error {
	if err := e.removeData(ctx, id, func(uint64) bool { return true }); err != nil {
		return err
	}
	return os.RemoveAll(e.stateDir(id))
}
