package phone

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/store"
)

// The copy of a phone's data is made by the controller of the new phone. Until it is done the new phone's Task holds it against being
// started, and the other's Readers holds that one. Both change in the transaction that begins and in the one that ends the operation.

// inherit fills in what a new phone that is made from another's data does not say.
func (s Spec) inherit(from Spec) Spec {
	s.Image = orDefault(s.Image, from.Image)
	s.Profile = orDefault(s.Profile, from.Profile)
	s.VCPUs = orDefault(s.VCPUs, from.VCPUs)
	s.CPUWeight = orDefault(s.CPUWeight, from.CPUWeight)
	s.MemoryBytes = orDefault(s.MemoryBytes, from.MemoryBytes)
	s.DataBytes = orDefault(s.DataBytes, from.DataBytes)
	s.Display.Width = orDefault(s.Display.Width, from.Display.Width)
	s.Display.Height = orDefault(s.Display.Height, from.Display.Height)
	s.Display.DPI = orDefault(s.Display.DPI, from.Display.DPI)
	s.Display.MaxFPS = orDefault(s.Display.MaxFPS, from.Display.MaxFPS)
	s.RestartPolicy = orDefault(s.RestartPolicy, from.RestartPolicy)
	s.Network = s.Network.inherit(from.Network)
	s.AppList = orDefault(s.AppList, from.AppList)
	if len(s.Properties) == 0 {
		s.Properties = maps.Clone(from.Properties)
	}
	return s
}

// beginClone makes a new phone's record the copy of another's data, and creates the operation.
func (s *Supervisor) beginClone(tx *store.Tx, r *Record, img Image, requestedBy string) (operation.Operation, error) {
	from := r.CloneOf
	source, status, err := s.meet(tx, from)
	if err != nil {
		return operation.Operation{}, err
	}
	if err := refusal(operation.Clone, false, status, &source); err != nil {
		return operation.Operation{}, err
	}
	if err := s.lentTo(from); err != nil {
		return operation.Operation{}, err
	}
	if err := checkClone(r, &source, img); err != nil {
		return operation.Operation{}, err
	}
	op, err := s.cfg.Operations.Create(tx, operation.Operation{
		Kind: operation.Clone, RequestedBy: requestedBy, Results: []operation.Result{{PhoneID: r.Spec.ID}},
	})
	if err != nil {
		return op, err
	}
	r.DataAndroid = source.DataAndroid
	r.Task = &Task{OperationID: op.ID, Kind: operation.Clone}
	readers := maps.Clone(source.Readers)
	if readers == nil {
		readers = map[string]string{}
	}
	readers[r.Spec.ID] = op.ID
	source.Readers = readers
	tx.OnCommit(func() { s.committed(from, source, false) })
	return op, records.Put(tx, []byte(from), source)
}

// checkClone refuses a new phone that cannot have the data.
func checkClone(r, source *Record, img Image) error {
	if r.Spec.DataBytes < source.Spec.DataBytes {
		return fault.Field("spec.data_bytes", "%d is less than the %d of %s, whose data is copied", r.Spec.DataBytes, source.Spec.DataBytes, source.Spec.ID)
	}
	if r.Spec.Profile != source.Spec.Profile {
		return fault.New(errdefs.ErrFailedPrecondition, fault.WrongProfile, "phone %s has the profile %s, and the new one would have %s",
			source.Spec.ID, source.Spec.Profile, r.Spec.Profile)
	}
	return img.fits(source, source.DataAndroid)
}

// clone copies the data of another phone. When that fails for good the new phone is removed, so that none is left that looks like a copy.
func (c *controller) clone(ctx context.Context, r *Record) error {
	c.progress(r, "copying the data of "+r.CloneOf)
	err := c.copyData(ctx, r)
	if err == nil {
		return c.endClone(nil)
	}
	if c.tryAgain(ctx, stepClone, err) {
		return err
	}
	return c.endClone(err)
}

// copyData makes the calls of a clone; all may be repeated.
func (c *controller) copyData(ctx context.Context, r *Record) error {
	source, err := c.s.Get(r.CloneOf)
	if err != nil {
		return err
	}
	from, to := source.Record.container(), r.container()
	if err := c.checkData(ctx, &source.Record); err != nil {
		return fmt.Errorf("copy the data of %s: %w", r.CloneOf, err)
	}
	shared, err := c.s.cfg.Volumes.CloneData(ctx, from, to)
	if errdefs.IsNotFound(err) {
		return nil // there is nothing to copy; the first start makes the new phone's volume
	}
	if err != nil {
		return fmt.Errorf("copy the data of %s: %w", r.CloneOf, err)
	}
	c.logger.Info("data copied", "from", r.CloneOf, "shared", shared)
	if to.DataBytes == from.DataBytes {
		return nil
	}
	if err := c.s.cfg.Volumes.GrowData(ctx, to); err != nil {
		return fmt.Errorf("grow the copy of the data of %s: %w", r.CloneOf, err)
	}
	return nil
}

// endClone lets go of the other phone and ends the operation, or has the new phone removed.
func (c *controller) endClone(failed error) error {
	return c.s.change(c.id, func(tx *store.Tx, r *Record) error {
		if r.Task == nil || r.Task.Kind != operation.Clone {
			return nil // given up meanwhile
		}
		if err := c.s.stopReading(tx, r); err != nil {
			return err
		}
		if failed == nil {
			return c.s.finishTask(tx, r)
		}
		r.fail(failure(fault.Code(failed), fault.Reason(failed), failed.Error(), time.Now()))
		r.Deleting = true
		return nil
	})
}

// stopReading lets go of the phone whose data this one was to be a copy of.
func (s *Supervisor) stopReading(tx *store.Tx, r *Record) error {
	if r.Task == nil || r.Task.Kind != operation.Clone {
		return nil
	}
	from := r.CloneOf
	source, err := records.Get(tx, []byte(from))
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	source.Readers = maps.Clone(source.Readers)
	delete(source.Readers, r.Spec.ID)
	if len(source.Readers) == 0 {
		source.Readers = nil
	}
	tx.OnCommit(func() { s.committed(from, source, false) })
	return records.Put(tx, []byte(from), source)
}

// abortReaders gives up the copies of a phone that is deleted by force: the new phones are removed.
func (s *Supervisor) abortReaders(tx *store.Tx, r *Record, by operation.Operation) error {
	for id := range r.Readers {
		reader, err := records.Get(tx, []byte(id))
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		if reader.Task == nil || reader.Task.Kind != operation.Clone {
			continue // given up already, by the same request
		}
		tx.OnCommit(func() { s.committed(id, reader, true) })
		if err := s.abort(tx, id, reader.Task, by); err != nil {
			return err
		}
		reader.Task, reader.Deleting = nil, true
		if err := records.Put(tx, []byte(id), reader); err != nil {
			return err
		}
	}
	r.Readers = nil
	return nil
}
