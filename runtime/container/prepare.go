package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/runtime/cgroup"
	"github.com/phonehost/phonehost/runtime/crashpoint"
	"github.com/phonehost/phonehost/runtime/ocispec"
	"github.com/phonehost/phonehost/runtime/profile"
)

// Prepare makes everything a start needs that can be made before it: directories, cgroups with their limits, the root snapshot and
// the data volume of the phone's data generation. What is there is kept. A data file system that is not in order is brought there, and one
// that is smaller than the phone's DataBytes grows, unless the guest runs on it. A root snapshot of the same generation that was made from another image is removed.
//
// Errors: errdefs.ErrNotFound if the image is gone while there is no root snapshot of it; errdefs.ErrInvalidArgument for an
// unknown profile, properties that its images cannot be given or a size that cannot be; errdefs.ErrDataLoss if the data file system is beyond repair.
func (e *Engine) Prepare(ctx context.Context, p Phone) error {
	if !validID(p.ID) {
		return fmt.Errorf("phone id %q: %w", p.ID, errdefs.ErrInvalidArgument)
	}
	prof, err := profile.Get(p.Profile)
	if err != nil {
		return err
	}
	if err := prof.CheckProperties(p.Properties); err != nil {
		return fmt.Errorf("phone %s of profile %s: %w", p.ID, prof.Name, err)
	}
	if err := e.makeDirs(p); err != nil {
		return fmt.Errorf("directories of %s: %w", p.ID, err)
	}
	crashpoint.Reached("prepare/directories")
	if err := e.writeFiles(p, prof); err != nil {
		return fmt.Errorf("files of %s: %w", p.ID, err)
	}
	crashpoint.Reached("prepare/files")
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.prepareCgroups(ctx, p.ID, cgroupLimits(p, prof)) })
	g.Go(func() error { return e.prepareData(ctx, p) })
	g.Go(func() error { return e.prepareRoot(ctx, p) })
	return g.Wait()
}

// leaveTime is how long processes that are about to end may keep the cgroups of a phone below a former root.
const leaveTime = time.Second

// prepareCgroups makes the phone's cgroups, and removes those of an earlier run below a former root.
func (e *Engine) prepareCgroups(ctx context.Context, id string, l cgroup.Limits) error {
	if err := e.cgroups.Create(id, l); err != nil {
		return err
	}
	leaving, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	if err := e.cgroups.Leave(leaving, id); err != nil {
		e.log.Warn("cgroups of a phone below a former root stay until its next start", "phone_id", id, "error", err)
	}
	return nil
}

func cgroupLimits(p Phone, prof *profile.Profile) cgroup.Limits {
	l := ocispec.Limits{CPUs: p.VCPUs}
	return cgroup.Limits{Weight: p.CPUWeight, CPUQuota: l.CPUQuota(), CPUPeriod: ocispec.CPUPeriod, MemoryBytes: p.MemoryBytes, PIDs: prof.MaxPIDs}
}

// makeDirs makes the phone's directories. Nobody but root passes the first of the run directories; containers get the inner ones
// bound, where the display owns them and the guest reads them.
func (e *Engine) makeDirs(p Phone) error {
	if err := e.makeStateDir(p.ID); err != nil {
		return err
	}
	uid := int(e.displayUID(p))
	for _, d := range []struct {
		path string
		mode os.FileMode
		uid  int
	}{
		{e.logDir(p.ID), 0o750, 0},
		{e.runDir(p.ID), 0o700, 0},
		{e.waylandDir(p.ID), 0o755, uid},
		{e.controlDir(p.ID), 0o700, uid},
		{e.filesDir(p.ID), 0o755, 0},
	} {
		if err := makeDir(d.path, d.mode, d.uid); err != nil {
			return err
		}
	}
	return nil
}

// writeFiles makes the files of the phone's profile. They lie in the run directory, which is in memory: what a guest does to the file
// system that a file lies on, should it find a way, reaches no disk. A file that is there and says the same is kept; another is
// replaced by a rename, so that a guest that runs keeps the one that it was started with, and a crash leaves the old one or the new.
func (e *Engine) writeFiles(p Phone, prof *profile.Profile) error {
	for _, f := range prof.Files {
		path := filepath.Join(e.filesDir(p.ID), filepath.Base(f.Path))
		content := f.Content(e.boot(p))
		if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, content) {
			continue
		}
		if err := os.WriteFile(path+".new", content, 0o644); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) makeStateDir(id string) error { return makeDir(e.stateDir(id), 0o700, 0) }

func makeDir(path string, mode os.FileMode, uid int) error {
	err := os.Mkdir(path, mode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		err = os.Mkdir(path, mode)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if uid == 0 {
		return nil
	}
	if err := os.Chown(path, uid, uid); err != nil {
		return err
	}
	return os.Chmod(path, mode) // whatever the umask
}

func (e *Engine) displayUID(p Phone) uint32 { return e.config.DisplayUIDBase + p.Slot }

// prepareRoot makes the guest's root snapshot from the image.
func (e *Engine) prepareRoot(ctx context.Context, p Phone) error {
	sn := e.client.SnapshotService(e.config.Snapshotter)
	key := snapshotKey(p)
	if found, err := e.keepRoot(ctx, p.ID, key); found || err != nil {
		return err
	}
	parent, err := e.unpacked(ctx, p)
	if err != nil {
		return fmt.Errorf("root of %s: %w", p.ID, err)
	}
	// Roots of another image go first: after a crash in between there is one too few, which the next call makes, and never one
	// too many.
	err = e.removeSnapshots(ctx, p.ID, func(l map[string]string) bool {
		return l[labelDataGeneration] == strconv.FormatUint(p.DataGeneration, 10)
	})
	if err != nil {
		return err
	}
	crashpoint.Reached("prepare/roots_of_other_images_removed")
	_, err = sn.Prepare(ctx, key, parent, snapshots.WithLabels(map[string]string{
		labelPhone:          p.ID,
		labelDataGeneration: strconv.FormatUint(p.DataGeneration, 10),
		labelImageDigest:    p.ImageDigest,
		labelGCRoot:         time.Now().UTC().Format(time.RFC3339),
	}))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("root of %s: prepare snapshot: %w", p.ID, unavailable(err))
	}
	crashpoint.Reached("prepare/root")
	return nil
}

// unpacked returns the name of the snapshot that holds the image's files, and unpacks the image if its snapshot is gone or may be damaged.
func (e *Engine) unpacked(ctx context.Context, p Phone) (string, error) {
	stored, err := e.findImage(ctx, p)
	if err != nil {
		return "", err
	}
	chain, err := e.unpacker.Unpack(ctx, stored)
	return chain, unavailable(err)
}

// findImage finds the image with the phone's digest: under the phone's reference, or under another if that one has moved on.
func (e *Engine) findImage(ctx context.Context, p Phone) (images.Image, error) {
	stored, err := e.client.ImageService().Get(ctx, p.Image)
	if err == nil && (stored.Target.Digest.String() == p.ImageDigest || p.ImageDigest == "") {
		return stored, nil
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return images.Image{}, fmt.Errorf("image %s: %w", p.Image, unavailable(err))
	}
	others, err := e.client.ImageService().List(ctx, "target.digest=="+strconv.Quote(p.ImageDigest))
	if err != nil {
		return images.Image{}, fmt.Errorf("image %s: %w", p.Image, unavailable(err))
	}
	if len(others) == 0 {
		return images.Image{}, fmt.Errorf("image %s with digest %s is not on this host: %w", p.Image, p.ImageDigest, errdefs.ErrNotFound)
	}
	return others[0], nil
}

// removeSnapshots removes those root snapshots of a phone whose labels match and that no container of it uses.
func (e *Engine) removeSnapshots(ctx context.Context, id string, match func(labels map[string]string) bool) error {
	sn := e.client.SnapshotService(e.config.Snapshotter)
	var keys []string
	err := sn.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Labels[labelPhone] == id && match(i.Labels) {
			keys = append(keys, i.Name)
		}
		return nil
	}, "labels."+strconv.Quote(labelPhone)+"=="+strconv.Quote(id))
	if err != nil {
		return fmt.Errorf("snapshots of %s: %w", id, unavailable(err))
	}
	if len(keys) == 0 {
		return nil
	}
	guest, err := e.client.ContainerService().Get(ctx, containerID(id, Guest))
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("snapshots of %s: %w", id, unavailable(err))
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return key == guest.SnapshotKey })
	for _, key := range keys {
		if err := sn.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove snapshot %s: %w", key, unavailable(err))
		}
		crashpoint.Reached("snapshot/removed")
	}
	return nil
}
