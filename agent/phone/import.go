package phone

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/data"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/store"
)

// The data of an archive becomes a generation of its own, beside the one that the phone has. When its volume is complete and on the disk,
// one transaction makes it the phone's; until then the record names the former, whole. The number of a generation is never used again,
// so that what an import leaves that came to nothing is nobody's, and goes like the remains of any other generation. The archive is
// named in the record until it is removed.

// Import is an archive that becomes the data of a phone.
type Import struct {
	// Archive is its name in Archives, and Bytes its size.
	Archive string `json:"archive"`
	Bytes   uint64 `json:"bytes"`
	// Generation is the data generation that it becomes.
	Generation uint64 `json:"generation"`
	// Android is the newest version that the data was used with, or empty.
	Android string `json:"android,omitempty"`
}

// ImportRequest asks for the data of a phone to be replaced.
type ImportRequest struct {
	// ID names the phone.
	ID string
	// SHA256 is the archive's digest; nil only where it has not come yet.
	SHA256 []byte
	// Archive is what was received.
	Archive data.Archive
	// RequestID and RequestedBy are those of a Request.
	RequestID   string
	RequestedBy string
}

// fingerprint tells a retry from another request.
func (q *ImportRequest) fingerprint() string { return q.ID + " " + hex.EncodeToString(q.SHA256) }

// CheckImport tells, before an archive is received, what would refuse it whatever it holds, and how large the phone's volume is. It returns
// the operation of an earlier request if this is known to be its retry.
func (s *Supervisor) CheckImport(q ImportRequest) (earlier *operation.Operation, volumeBytes uint64, err error) {
	if err := operation.CheckRequestID(q.RequestID); err != nil {
		return nil, 0, err
	}
	err = s.cfg.DB.View(func(tx *store.Tx) error {
		known, err := s.cfg.Operations.Known(tx, q.RequestedBy, q.RequestID)
		if err != nil {
			return err
		}
		r, status, err := s.meet(tx, q.ID)
		volumeBytes = r.Spec.DataBytes
		switch {
		case known != nil && len(q.SHA256) > 0:
			earlier, err = s.cfg.Operations.Retry(tx, q.RequestedBy, q.RequestID, q.fingerprint())
			return err
		case err != nil:
			return err
		case known != nil:
			return nil // it may be a retry: the archive will tell
		}
		return s.checkImport(&r, status)
	})
	if err == nil && earlier == nil {
		err = s.CheckDisk()
	}
	return earlier, volumeBytes, err
}

// checkImport refuses an import for what the phone is doing.
func (s *Supervisor) checkImport(r *Record, status Status) error {
	if err := refusal(operation.ImportData, false, status, r); err != nil {
		return err
	}
	return s.lentTo(r.Spec.ID)
}

// ImportData makes an archive that was received and verified the data of a phone, which is off, in place of its own. Once begun is true
// the archive is the phone's, which removes it; else it is still the caller's. The same request id returns the same operation.
//
// Errors: ErrNotFound; faults of class ErrFailedPrecondition with reason NOT_OFF, BUSY, WRONG_PROFILE or DATA_NEWER, of ErrOutOfRange
// with reason DATA_TOO_LARGE, of ErrResourceExhausted with reason DISK_LOW, of ErrUnavailable with reason CONTAINERD_LOST.
func (s *Supervisor) ImportData(q ImportRequest) (op operation.Operation, begun bool, err error) {
	q.SHA256 = q.Archive.SHA256 // what came, whatever was announced
	diskErr := s.CheckDisk()
	err = s.cfg.DB.Update(func(tx *store.Tx) error {
		begun = false
		if err := s.accepting(); err != nil {
			return err
		}
		earlier, err := s.cfg.Operations.Retry(tx, q.RequestedBy, q.RequestID, q.fingerprint())
		if err != nil {
			return err
		}
		if earlier != nil {
			op = *earlier
			return nil
		}
		r, status, err := s.meet(tx, q.ID)
		if err == nil {
			err = s.checkImport(&r, status)
		}
		if err == nil {
			err = diskErr
		}
		if err == nil {
			err = checkArchive(&r, &q.Archive)
		}
		if err != nil {
			return err
		}
		begun = true
		op, err = s.beginImport(tx, r, &q)
		return err
	})
	return op, begun && err == nil, err
}

// checkArchive refuses an archive that is not for the phone.
func checkArchive(r *Record, a *data.Archive) error {
	id, m := r.Spec.ID, a.Manifest
	if m.Profile != r.Spec.Profile {
		return fault.New(errdefs.ErrFailedPrecondition, fault.WrongProfile, "phone %s has the profile %s, and the archive is of the data of a phone with the profile %s",
			id, r.Spec.Profile, fault.Clip(m.Profile))
	}
	if newerAndroid(m.AndroidVersion, r.ImageAndroid) {
		return fault.New(errdefs.ErrFailedPrecondition, fault.DataNewer,
			"the data of the archive was used with Android %s, and image %s of phone %s is Android %s: data cannot go back",
			fault.Clip(m.AndroidVersion), fault.Clip(r.Spec.Image), id, fault.Clip(r.ImageAndroid))
	}
	if m.Bytes > r.Spec.DataBytes {
		return fault.New(errdefs.ErrOutOfRange, data.TooLarge, "the archive holds %d bytes, and the data volume of phone %s has %d: grow it first", m.Bytes, id, r.Spec.DataBytes)
	}
	return nil
}

// beginImport stores what an import that is accepted makes of a phone.
func (s *Supervisor) beginImport(tx *store.Tx, r Record, q *ImportRequest) (operation.Operation, error) {
	op, err := s.cfg.Operations.Create(tx, operation.Operation{
		Kind: operation.ImportData, RequestID: q.RequestID, RequestedBy: q.RequestedBy, Fingerprint: q.fingerprint(),
		Results: []operation.Result{{PhoneID: q.ID}},
	})
	if err != nil {
		return op, err
	}
	tx.OnCommit(func() { s.committed(q.ID, r, true) }) // after the operation is known, whose progress the controller tells
	r.LastGeneration = r.nextGeneration()
	r.Import = &Import{Archive: q.Archive.Name, Bytes: q.Archive.Bytes, Generation: r.LastGeneration, Android: q.Archive.Manifest.AndroidVersion}
	// From here on there is something of a generation that is not the phone's.
	r.KeptGeneration = 0
	r.Task = &Task{OperationID: op.ID, Kind: operation.ImportData}
	return op, records.Put(tx, []byte(q.ID), r)
}

// nextGeneration is a data generation that has never been.
func (r *Record) nextGeneration() uint64 { return max(r.DataGeneration, r.LastGeneration) + 1 }

// importing reports whether an archive is still to become the phone's data.
func (r *Record) importing() bool {
	return r.Import != nil && r.DataGeneration < r.Import.Generation && r.taskIs(operation.ImportData) && r.Task.Failure == nil
}

// imported reports whether an import has given the phone its data and only what remains of it and of the former data is still to go.
func (r *Record) imported() bool {
	return r.taskIs(operation.ImportData) && r.Task.Failure == nil && !r.importing()
}

// importData makes the volume of an archive, and then makes it the phone's.
func (c *controller) importData(ctx context.Context, r *Record) error {
	c.progress(r, "unpacking the archive")
	err := c.unpack(ctx, r)
	if err == nil {
		return c.endImport(r.Import, nil)
	}
	hopeless := errdefs.IsDataLoss(err) || errdefs.IsOutOfRange(err)
	if !hopeless && c.tryAgain(ctx, stepImport, err) {
		return err
	}
	return c.endImport(r.Import, data.Fault(err))
}

// unpack makes the calls of an import; all may be repeated.
func (c *controller) unpack(ctx context.Context, r *Record) error {
	in, err := c.s.cfg.Archives.Open(r.Import.Archive)
	if err != nil {
		return err
	}
	defer in.Close()
	p := r.container()
	p.DataGeneration = r.Import.Generation
	_, err = c.s.cfg.Volumes.ImportData(ctx, p, &tellingReader{in: in, all: r.Import.Bytes, tell: func(percent uint64) {
		c.progress(r, fmt.Sprintf("unpacking the archive: %d %%", percent))
	}})
	return err
}

// tellingReader tells after every tenth of what is read.
type tellingReader struct {
	in        io.Reader
	all, read uint64 // bytes
	told      uint64 // tenths
	tell      func(percent uint64)
}

// Read implements io.Reader.
func (t *tellingReader) Read(p []byte) (int, error) {
	n, err := t.in.Read(p)
	t.read += uint64(n)
	if t.all > 0 {
		if tenths := min(t.read*10/t.all, 10); tenths > t.told {
			t.told = tenths
			t.tell(tenths * 10)
		}
	}
	return n, err
}

// endImport makes the new volume the phone's, or has the operation fail. An import that was given up meanwhile does neither.
func (c *controller) endImport(of *Import, failed error) error {
	now := time.Now()
	return c.s.change(c.id, func(_ *store.Tx, r *Record) error {
		if !r.importing() || r.Import.Generation != of.Generation {
			return nil
		}
		if failed != nil {
			r.fail(failure(fault.Code(failed), fault.Reason(failed), failed.Error(), now))
			return nil
		}
		r.DataGeneration, r.DataAndroid = of.Generation, of.Android
		r.forgetCrashes()
		if r.Hold != nil {
			r.turnOff(false, "")
		}
		return nil
	})
}

// dropArchive removes the archive of an import that has been done or given up. One that cannot be removed is left to the next agent.
func (c *controller) dropArchive(of *Import) error {
	if err := c.s.cfg.Archives.Remove(of.Archive); err != nil {
		c.logger.Warn("archive of an import not removed", "archive", of.Archive, "error", err)
	}
	return c.s.change(c.id, func(_ *store.Tx, r *Record) error {
		if r.Import != nil && r.Import.Generation == of.Generation {
			r.Import = nil
		}
		return nil
	})
}

// NamesArchive reports whether a phone has an archive of this name.
func (s *Supervisor) NamesArchive(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.broken) > 0 {
		return true // nobody knows what these name
	}
	for _, c := range s.phones {
		if c.rec.Import != nil && c.rec.Import.Archive == name {
			return true
		}
	}
	return false
}
