package phone

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/profile"
)

// Create stores a new phone; it does not start it. Fields left at zero get their defaults. The same spec again returns the phone
// that is there. Errors: ErrInvalidArgument names the field; ErrNotFound when the host does not have the image; ErrAlreadyExists,
// also with reason PORT_TAKEN for a forward where a process of the host listens; ErrResourceExhausted when the disk is low.
func (s *Supervisor) Create(ctx context.Context, spec Spec) (Snapshot, error) {
	snap, _, err := s.make(ctx, creation{spec: spec})
	return snap, err
}

// Clone stores a new phone whose data is a copy of another's, which is off, and returns the operation that makes the copy; nil if the
// phone is there already and the copy made. Fields left at zero get the other's values, but for labels and lease. Errors are those of
// Create; ErrNotFound also when there is no such phone; ErrFailedPrecondition with reason NOT_OFF, BUSY, WRONG_PROFILE or DATA_NEWER.
func (s *Supervisor) Clone(ctx context.Context, spec Spec, from, requestedBy string) (Snapshot, *operation.Operation, error) {
	source, err := s.Get(from)
	if err != nil {
		return Snapshot{}, nil, err
	}
	if from == spec.ID {
		return Snapshot{}, nil, fault.Field("clone_from", "%q is the new phone itself", fault.Clip(from))
	}
	n := creation{spec: spec.inherit(source.Record.Spec), from: from, by: requestedBy}
	if spec.Image == "" {
		// The very content that the other has, wherever its name leads by now.
		n.digest, n.android = source.Record.ImageDigest, source.Record.ImageAndroid
	}
	return s.make(ctx, n)
}

// creation is what a new phone is made of.
type creation struct {
	spec Spec
	// from is the phone whose data is copied, or empty; by asks for it.
	from, by string
	// digest and android go before what the image's name leads to.
	digest, android string
}

// make stores a new phone.
func (s *Supervisor) make(ctx context.Context, n creation) (Snapshot, *operation.Operation, error) {
	n.spec = n.spec.WithDefaults(s.cfg.Host)
	if err := n.spec.Validate(s.cfg.Host); err != nil {
		return Snapshot{}, nil, err
	}
	img, err := s.image(ctx, n.spec.Image, "spec.image")
	if err != nil {
		return Snapshot{}, nil, err
	}
	if n.digest != "" {
		img.Digest, img.AndroidVersion = n.digest, n.android
	}
	if err := s.checkPools(n.spec.Network); err != nil {
		return Snapshot{}, nil, err
	}
	if err := s.checkAllFree(ctx, n.spec); err != nil {
		return Snapshot{}, nil, err
	}
	n.spec.Image = img.Name
	if err := chooseProfile(&n.spec, img); err != nil {
		return Snapshot{}, nil, err
	}
	release, err := s.reserve(ctx, n.spec.ID)
	if err != nil {
		return Snapshot{}, nil, err
	}
	defer release()
	diskErr := s.CheckDisk()
	var op *operation.Operation
	err = s.cfg.DB.Update(func(tx *store.Tx) (err error) {
		op, err = s.create(tx, n, img, diskErr)
		return err
	})
	if err != nil {
		return Snapshot{}, nil, err
	}
	snap, err := s.Get(n.spec.ID)
	return snap, op, err
}

// image returns an image of the host, or a fault that says how to get it. field is where the request names it.
func (s *Supervisor) image(ctx context.Context, ref, field string) (Image, error) {
	img, err := s.cfg.Images.Image(ctx, ref)
	switch {
	case errdefs.IsNotFound(err):
		return img, fault.New(errdefs.ErrNotFound, fault.NoSuchImage, "image %q is not on this host: pull or import it first", fault.Clip(ref))
	case errdefs.IsInvalidArgument(err):
		return img, fault.Field(field, "%v", err)
	}
	return img, err
}

// chooseProfile fills in the profile that the image names, and refuses one that is not known, and properties that its images cannot be
// given.
func chooseProfile(spec *Spec, img Image) error {
	known := strings.Join(profile.Names(), ", ")
	if spec.Profile == "" {
		spec.Profile = img.Profile
	}
	if spec.Profile == "" {
		return fault.Field("spec.profile", "image %q does not say its profile; name one of: %s", spec.Image, known)
	}
	kind, err := profile.Get(spec.Profile)
	if err != nil {
		return fault.Field("spec.profile", "%q is not known; known are: %s", fault.Clip(spec.Profile), known)
	}
	return checkProperties(kind, spec.Properties)
}

// checkProperties refuses properties that phones of a profile cannot be given.
func checkProperties(kind *profile.Profile, properties map[string]string) error {
	if err := kind.CheckProperties(properties); err != nil {
		return fault.Field("spec.properties", "%s", fault.Readable(err.Error()))
	}
	return nil
}

// CheckDisk returns a fault of class ErrResourceExhausted with reason DISK_LOW while the disk is below its low-water mark.
func (s *Supervisor) CheckDisk() error {
	if s.cfg.DiskFree == nil {
		return nil
	}
	free, err := s.cfg.DiskFree()
	if err != nil {
		return err
	}
	if free < s.cfg.DiskReserve {
		return fault.New(errdefs.ErrResourceExhausted, fault.DiskLow, "the host's disk has %d MiB free, below its reserve of %d MiB",
			free>>20, s.cfg.DiskReserve>>20)
	}
	return nil
}

// checkAllFree refuses a new phone whose forwards cannot be taken on: see checkFree. Those of a phone that is there already are its own.
func (s *Supervisor) checkAllFree(ctx context.Context, spec Spec) error {
	if _, err := s.Get(spec.ID); err == nil {
		return nil
	}
	for i, f := range spec.Network.Forwards {
		if err := s.checkFree(ctx, fmt.Sprintf("spec.network.forwards[%d].listen", i), f); err != nil {
			return err
		}
	}
	return nil
}

// create is the transaction of make.
func (s *Supervisor) create(tx *store.Tx, n creation, img Image, diskErr error) (*operation.Operation, error) {
	if err := s.accepting(); err != nil {
		return nil, err
	}
	id := n.spec.ID
	have, err := records.Get(tx, []byte(id))
	if err == nil {
		return s.existing(tx, &have, n)
	}
	if !errdefs.IsNotFound(err) {
		return nil, err
	}
	if diskErr != nil {
		return nil, diskErr
	}
	if err := n.spec.Lease.checkAhead(s.wall()); err != nil {
		return nil, err
	}
	if err := s.checkPolicy(tx, n.spec.Network.Policy); err != nil {
		return nil, err
	}
	if err := s.checkAppList(tx, n.spec.AppList); err != nil {
		return nil, err
	}
	if err := checkForwardsFree(tx, id, n.spec.Network.Forwards...); err != nil {
		return nil, err
	}
	slot, err := takeSlot(tx, id)
	if err != nil {
		return nil, err
	}
	r := Record{
		Spec: n.spec, Slot: slot, CreateTime: time.Now(), ImageDigest: img.Digest, ImageAndroid: img.AndroidVersion,
		ImageProfile: img.otherProfile(n.spec), CloneOf: n.from, DataGeneration: 1, KeptGeneration: 1,
	}
	if err := s.takeAddresses(tx, &r); err != nil {
		return nil, err
	}
	message := fmt.Sprintf("phone %s was created from %s", id, n.spec.Image)
	if n.from != "" {
		message += " with the data of " + n.from
	}
	if err := s.cfg.Journal.Append(tx, event.Event{Kind: event.PhoneCreated, PhoneID: id, Message: message}); err != nil {
		return nil, err
	}
	tx.OnCommit(func() { s.adopt(id, r) })
	var op *operation.Operation
	if n.from != "" {
		begun, err := s.beginClone(tx, &r, img, n.by)
		if err != nil {
			return nil, err
		}
		op = &begun
	}
	return op, records.Put(tx, []byte(id), r)
}

// existing answers a creation that finds the phone: with the same spec it is a retry.
func (s *Supervisor) existing(tx *store.Tx, have *Record, n creation) (*operation.Operation, error) {
	if have.Deleting || !have.Spec.Equal(n.spec) || have.CloneOf != n.from {
		return nil, fault.New(errdefs.ErrAlreadyExists, fault.PhoneExists, "phone %s exists with another spec, or is being deleted", n.spec.ID)
	}
	if !have.taskIs(operation.Clone) {
		return nil, nil
	}
	op, err := s.cfg.Operations.Read(tx, have.Task.OperationID)
	return &op, err
}

// adopt starts the controller of a phone that was just created. Nothing of it exists yet, so that is what has been seen.
func (s *Supervisor) adopt(id string, r Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.newController(id, r)
	c.sight.known = true
	c.snap = c.look()
	c.snap.Revision = s.nextRevision()
	close(c.adopted)
	s.phones[id] = c
	s.tell(id)
	if s.running {
		s.wg.Go(func() { c.run(s.ctx) })
	}
}

// takeSlot gives a phone the lowest slot that is free.
func takeSlot(tx *store.Tx, id string) (uint32, error) {
	b := tx.Bucket(store.Slots)
	slot := uint32(0)
	c := b.Cursor()
	for k, _ := c.First(); k != nil && string(k) == string(store.Key32(slot)); k, _ = c.Next() {
		slot++
	}
	if err := b.Put(store.Key32(slot), []byte(id)); err != nil {
		return 0, fmt.Errorf("take slot %d for %s: %w", slot, id, err)
	}
	return slot, nil
}
