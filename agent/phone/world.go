package phone

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/profile"
	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/runtime/volume/archive"
)

// Runtime is what the controllers need of the engine that runs containers (container.Engine). Calls for one phone are never made
// at the same time, apart from those that only read. Every call may be repeated after a crash at any point.
type Runtime interface {
	// Prepare makes what a start needs: directories, cgroups, and the root file system and data volume of the phone's generation.
	Prepare(ctx context.Context, p container.Phone) error
	// StartDisplay starts the phone's display unless it runs.
	StartDisplay(ctx context.Context, p container.Phone) error
	// StartGuest starts the phone's guest unless it runs.
	StartGuest(ctx context.Context, p container.Phone) error
	// Shutdown asks the guest to end and returns at once.
	Shutdown(ctx context.Context, id string) error
	// Kill ends a task; no error when it does not run.
	Kill(ctx context.Context, id string, role container.Role) error
	// RemoveGuest removes the guest's container and task; file systems stay.
	RemoveGuest(ctx context.Context, id string) error
	// RemoveDisplay removes the display's container and task.
	RemoveDisplay(ctx context.Context, id string) error
	// SetLimits gives the guest the CPU time, the CPU weight and the memory of p while it runs, but never less memory than it has;
	// no error when it does not run.
	SetLimits(ctx context.Context, p container.Phone) error
	// KeepGeneration drops the file systems of other data generations.
	KeepGeneration(ctx context.Context, id string, keep uint64) error
	// Destroy removes everything of the phone, and kills what runs.
	Destroy(ctx context.Context, id string) error
	// Observe reads what is; it fails with ErrUnavailable when containerd cannot be asked.
	Observe(ctx context.Context, id string) (container.Observation, error)
	// IDs names the phones of which anything exists.
	IDs(ctx context.Context) ([]string, error)
	// Events reports exits, and the loss and return of containerd, until the context ends.
	Events(ctx context.Context) <-chan container.Event
	// BootCompleted asks the guest whether its boot is complete, and tells what it saw.
	BootCompleted(ctx context.Context, id string) (done bool, seen string, err error)
	// LogTail returns the last lines that a container printed since a time, at most limit bytes of valid UTF-8. Of a container that has
	// ended it waits a moment for the last of them.
	LogTail(ctx context.Context, id string, role container.Role, since time.Time, limit int) (string, error)
}

// Volumes is what the controllers need of the engine to work on data volumes (container.Engine). The rules are those of Runtime.
type Volumes interface {
	// GrowData grows the data volume of p's generation to p.DataBytes, also while the guest runs. A volume that has the size
	// already, or more, is left alone, and one that does not exist is no error: Prepare makes it as large as it has to be.
	GrowData(ctx context.Context, p container.Phone) error
	// CloneData makes the data volume of to's generation a copy of from's, of the same size and with an identity of its own, and tells
	// whether the two share their blocks. Neither phone runs. A volume of to that is complete is left alone; a crash leaves nothing that
	// the next call does not replace. ErrNotFound: from was never started, and so has no data.
	CloneData(ctx context.Context, from, to container.Phone) (shared bool, err error)
	// CheckData brings the data volume of p's generation in order after an unclean end, and says what it found. One that does not exist
	// or that a guest runs on is clean. ErrDataLoss, with the outcome BeyondRepair, for one that cannot be mended.
	CheckData(ctx context.Context, p container.Phone) (volume.Report, error)
	// BootReason reads from the data volume of p's generation why its guest, which has ended, last shut down. Nothing has the volume
	// when it returns. It is asked only where the profile needs it (profile.Profile.NeedsBootReason).
	BootReason(ctx context.Context, p container.Phone) (profile.BootReason, error)
	// ImportData makes the data volume of p's generation out of an archive. A volume that is complete is left alone; an error or a crash
	// leaves nothing that KeepGeneration does not remove. The errors are those of archive.Import.
	ImportData(ctx context.Context, p container.Phone, r io.Reader) (archive.Manifest, error)
	// TrimData gives what the data volume of p's generation does not use back to the host, also while the guest runs. ErrNotFound: there
	// is no volume.
	TrimData(ctx context.Context, p container.Phone) (bytes uint64, err error)
}

// Archives is what the controllers need of the archives that were received to be imported (data.Spool).
type Archives interface {
	// Open opens an archive; ErrNotFound if it is not there.
	Open(name string) (io.ReadCloser, error)
	// Remove removes one; no error when it is gone.
	Remove(name string) error
}

// noVolumes is the Volumes of a world that knows nothing of them.
type noVolumes struct{}

func (noVolumes) GrowData(_ context.Context, p container.Phone) error {
	return fmt.Errorf("grow the data of %s: not possible on this host: %w", p.ID, errdefs.ErrNotImplemented)
}

func (noVolumes) CloneData(_ context.Context, from, _ container.Phone) (shared bool, err error) {
	return false, fmt.Errorf("copy the data of %s: not possible on this host: %w", from.ID, errdefs.ErrNotImplemented)
}

func (noVolumes) CheckData(context.Context, container.Phone) (volume.Report, error) {
	return volume.Report{}, nil
}

func (noVolumes) BootReason(_ context.Context, p container.Phone) (profile.BootReason, error) {
	return profile.BootReason{}, fmt.Errorf("read the data of %s: not possible on this host: %w", p.ID, errdefs.ErrNotImplemented)
}

func (noVolumes) ImportData(_ context.Context, p container.Phone, _ io.Reader) (archive.Manifest, error) {
	return archive.Manifest{}, fmt.Errorf("import data for %s: not possible on this host: %w", p.ID, errdefs.ErrNotImplemented)
}

func (noVolumes) TrimData(_ context.Context, p container.Phone) (bytes uint64, err error) {
	return 0, fmt.Errorf("trim the data of %s: not possible on this host: %w", p.ID, errdefs.ErrNotImplemented)
}

// noArchives is the Archives of a world that has none.
type noArchives struct{}

func (noArchives) Open(string) (io.ReadCloser, error) {
	return nil, fmt.Errorf("open an archive: there are none: %w", errdefs.ErrNotFound)
}

func (noArchives) Remove(string) error { return nil }

// Networks is what the controllers need of the engine of the phones' networks (netpolicy.Engine). Calls for one phone are never made at the
// same time. Every call may be repeated after a crash at any point.
type Networks interface {
	// Ensure makes the phone's network what p says: its namespace, and all that belongs to it. What is so already is left alone; what
	// differs is changed, also while the guest runs.
	Ensure(ctx context.Context, p netpolicy.Phone) error
	// Remove removes all of it; no error when nothing is there.
	Remove(ctx context.Context, id string) error
	// List names the phones of which anything is there.
	List() ([]string, error)
	// CheckForward refuses a forward that cannot be taken on: errdefs.ErrInvalidArgument where it listens at an address that is none of the host's,
	// errdefs.ErrConflict where a process of the host listens. It changes nothing, and may be called beside other calls.
	CheckForward(ctx context.Context, f netpolicy.Forward) error
}

// AppLists is what the controllers need of whoever keeps the lists of apps (applist.Manager). Calls for one phone are never made at the same
// time. Every call may be repeated after a crash at any point.
type AppLists interface {
	// Ready has the kernel judge the apps of a phone, which exists and whose guest is about to be started, by its list. No error where the
	// phone is on none. ErrFailedPrecondition: the phone must not run here.
	Ready(ctx context.Context, id string) error
	// Forget ends that for a phone that is being removed, whose guest has ended, and forgets what is known of it.
	Forget(ctx context.Context, id string) error
}

// noAppLists is the AppLists of a world that has none.
type noAppLists struct{}

func (noAppLists) Ready(context.Context, string) error  { return nil }
func (noAppLists) Forget(context.Context, string) error { return nil }

// Displays is what the controllers need of the connections to displays (display.Registry).
type Displays interface {
	// Track begins to connect to a display that runs already.
	Track(id string) error
	// WaitReady connects and returns when the display answers.
	WaitReady(ctx context.Context, id string) error
	// Close forgets a display that is meant to go.
	Close(id string)
	// HasContent tells whether a guest shows something on the display, as far as that is known. It never waits.
	HasContent(id string) bool
}

// Image is what a phone needs to know of an image.
type Image struct {
	// Name is its full reference, with registry and tag.
	Name string
	// Digest of its index or manifest, "sha256:...".
	Digest string
	// Profile that its label names, or empty.
	Profile string
	// AndroidVersion that its label names, such as "13", or empty.
	AndroidVersion string
}

// Images is what creation and reset need of the images of the host.
type Images interface {
	// Image returns an image by its reference; ErrNotFound, or ErrInvalidArgument for what is no reference.
	Image(ctx context.Context, ref string) (Image, error)
}
