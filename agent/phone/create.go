package phone

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/profile"
)

// Create stores a new phone; it does not start it. Fields left at zero get their defaults. The same spec again returns the phone
// that is there. Errors: ErrInvalidArgument names the field; ErrNotFound when the host does not have the image; ErrAlreadyExists;
// ErrResourceExhausted when the disk is low.
func (s *Supervisor) Create(ctx context.Context, spec Spec) (Snapshot, error) {
	spec = spec.WithDefaults(s.cfg.Host)
	if err := spec.Validate(s.cfg.Host); err != nil {
		return Snapshot{}, err
	}
	img, err := s.image(ctx, spec.Image)
	if err != nil {
		return Snapshot{}, err
	}
	spec.Image = img.Name
	if err := chooseProfile(&spec, img); err != nil {
		return Snapshot{}, err
	}
	release, err := s.reserve(ctx, spec.ID)
	if err != nil {
		return Snapshot{}, err
	}
	defer release()
	diskErr := s.checkDisk()
	err = s.cfg.DB.Update(func(tx *store.Tx) error { return s.create(tx, spec, img.Digest, diskErr) })
	if err != nil {
		return Snapshot{}, err
	}
	return s.Get(spec.ID)
}

// image returns an image of the host, or a fault that says how to get it.
func (s *Supervisor) image(ctx context.Context, ref string) (Image, error) {
	img, err := s.cfg.Images.Image(ctx, ref)
	switch {
	case errdefs.IsNotFound(err):
		return img, fault.New(errdefs.ErrNotFound, fault.NoSuchImage, "image %q is not on this host: pull or import it first", clip(ref))
	case errdefs.IsInvalidArgument(err):
		return img, fault.Field("spec.image", "%v", err)
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
		return fault.Field("spec.profile", "%q is not known; known are: %s", clip(spec.Profile), known)
	}
	if err := kind.CheckProperties(spec.Properties); err != nil {
		return fault.Field("spec.properties", "%v", err)
	}
	return nil
}

// checkDisk returns a fault of class ErrResourceExhausted while the disk is below its low-water mark.
func (s *Supervisor) checkDisk() error {
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

// create is the transaction of Create.
func (s *Supervisor) create(tx *store.Tx, spec Spec, digest string, diskErr error) error {
	if err := s.accepting(); err != nil {
		return err
	}
	have, err := records.Get(tx, []byte(spec.ID))
	if err == nil {
		if have.Deleting || !have.Spec.Equal(spec) {
			return fault.New(errdefs.ErrAlreadyExists, fault.PhoneExists, "phone %s exists with another spec, or is being deleted", spec.ID)
		}
		return nil
	}
	if !errdefs.IsNotFound(err) {
		return err
	}
	if diskErr != nil {
		return diskErr
	}
	slot, err := takeSlot(tx, spec.ID)
	if err != nil {
		return err
	}
	r := Record{
		Spec: spec, Slot: slot, CreateTime: time.Now(), ImageDigest: digest, DataGeneration: 1, KeptGeneration: 1,
	}
	err = s.cfg.Journal.Append(tx, event.Event{
		Kind: event.PhoneCreated, PhoneID: spec.ID, Message: fmt.Sprintf("phone %s was created from %s", spec.ID, spec.Image),
	})
	if err != nil {
		return err
	}
	tx.OnCommit(func() { s.adopt(spec.ID, r) })
	return records.Put(tx, []byte(spec.ID), r)
}

// adopt starts the controller of a phone that was just created. Nothing of it exists yet, so that is what has been seen.
func (s *Supervisor) adopt(id string, r Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.newController(id, r)
	c.sight.known = true
	c.snap = snapshot(&c.rec, c.sight, time.Now(), s.timing)
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
