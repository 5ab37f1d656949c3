package image

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/crashpoint"
)

// Labels of the snapshots that hold the layers of images.
const (
	// labelBoot is the kernel's name of the boot in which a layer was unpacked.
	labelBoot = "dev.phonehost.unpacked-in-boot"
	// labelDurable is on layers whose files have reached the disk.
	labelDurable = "dev.phonehost.durable"
)

// Unpacker unpacks the layers of images into the snapshotter, so that they are whole after a power cut too.
//
// containerd commits a layer to its database, which it syncs, and does not sync the layer's files (local diff applier of containerd
// 1.6): after a power cut the layer is there and its files may be empty. So the Unpacker syncs them, and only then says on the
// layers that they are durable; layers that are not, and are from an earlier boot, it unpacks anew.
//
// It may be used by several goroutines, which it makes wait for each other; of two Unpackers of one containerd that work at once, one
// may find a layer missing that the other replaces, and is to try again.
type Unpacker struct {
	client      *containerd.Client
	snapshotter string
	boot        string

	mu sync.Mutex
}

// NewUnpacker returns an Unpacker; an empty snapshotter is containerd's default on Linux.
func NewUnpacker(client *containerd.Client, snapshotter string) (*Unpacker, error) {
	if snapshotter == "" {
		snapshotter = "overlayfs"
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("name of this boot: %w", err)
	}
	return &Unpacker{client: client, snapshotter: snapshotter, boot: strings.TrimSpace(string(boot))}, nil
}

// Unpack sees to it that the image's layers for this host's platform are unpacked and on disk, and returns the name of the snapshot
// that holds all of its files. It is one question to containerd where that is so. Errors are containerd's.
func (u *Unpacker) Unpack(ctx context.Context, img images.Image) (string, error) {
	image := containerd.NewImageWithPlatform(u.client, img, platforms.Default())
	layers, err := image.RootFS(ctx)
	if err != nil {
		return "", fmt.Errorf("layers of image %s: %w", img.Name, err)
	}
	chain := identity.ChainIDs(slices.Clone(layers))
	if len(chain) == 0 {
		return "", fmt.Errorf("image %s has no layers: %w", img.Name, errdefs.ErrInvalidArgument)
	}
	top := chain[len(chain)-1].String()
	u.mu.Lock()
	defer u.mu.Unlock()
	if info, err := u.service().Stat(ctx, top); err == nil && info.Labels[labelDurable] != "" {
		return top, nil
	}
	// What is made here belongs to nothing until the image refers to it.
	ctx, done, err := u.client.WithLease(ctx, leaseOptions()...)
	if err != nil {
		return "", fmt.Errorf("create lease: %w", err)
	}
	defer done(context.WithoutCancel(ctx))
	if err := u.discard(ctx, chain); err != nil {
		return "", fmt.Errorf("unpack image %s: %w", img.Name, err)
	}
	crashpoint.Reached("unpack/discarded")
	mark := func(_ context.Context, c *containerd.UnpackConfig) error {
		c.SnapshotOpts = append(c.SnapshotOpts, snapshots.WithLabels(map[string]string{labelBoot: u.boot}))
		return nil
	}
	if err := image.Unpack(ctx, u.snapshotter, mark); err != nil {
		return "", fmt.Errorf("unpack image %s: %w", img.Name, err)
	}
	crashpoint.Reached("unpack/unpacked")
	if err := u.persist(ctx, chain); err != nil {
		return "", fmt.Errorf("bring image %s to disk: %w", img.Name, err)
	}
	crashpoint.Reached("unpack/durable")
	return top, nil
}

func (u *Unpacker) service() snapshots.Snapshotter { return u.client.SnapshotService(u.snapshotter) }

// discard removes the layers that may be damaged, and those above them, from the top down. A layer that a phone is made from stays:
// phones are made from durable layers alone, so it is of an agent that knew no such label.
func (u *Unpacker) discard(ctx context.Context, chain []digest.Digest) error {
	sn := u.service()
	first := len(chain)
	for i, layer := range chain {
		info, err := sn.Stat(ctx, layer.String())
		if errdefs.IsNotFound(err) {
			break
		}
		if err != nil {
			return err
		}
		if info.Labels[labelDurable] == "" && info.Labels[labelBoot] != u.boot {
			first = i
			break
		}
	}
	for _, layer := range slices.Backward(chain[first:]) {
		err := sn.Remove(ctx, layer.String())
		if errdefs.IsFailedPrecondition(err) {
			return nil // in use, and so is all that is below it
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove a layer that may be damaged: %w", err)
		}
	}
	return nil
}

// persist syncs the file system of the layers and says so on each.
func (u *Unpacker) persist(ctx context.Context, chain []digest.Digest) error {
	sn := u.service()
	top := chain[len(chain)-1].String()
	key := "phonehost-sync-" + top
	mounts, err := sn.View(ctx, key, top)
	if errdefs.IsAlreadyExists(err) {
		mounts, err = sn.Mounts(ctx, key) // of a call that was killed
	}
	if err != nil {
		return err
	}
	crashpoint.Reached("unpack/viewed")
	err = syncBelow(mounts)
	if gone := sn.Remove(context.WithoutCancel(ctx), key); err == nil {
		err = gone
	}
	for _, layer := range chain {
		if err != nil {
			return err
		}
		info := snapshots.Info{Name: layer.String(), Labels: map[string]string{labelDurable: "true"}}
		_, err = sn.Update(ctx, info, "labels."+labelDurable)
	}
	return err
}

// syncBelow syncs the file system that holds what the mounts show: that of the first directory among their sources and lower layers.
// A snapshotter without directories, one of block devices, makes all file systems be synced.
func syncBelow(mounts []mount.Mount) error {
	for _, m := range mounts {
		for _, dir := range append([]string{m.Source}, lower(m.Options)...) {
			fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			err = unix.Syncfs(fd)
			unix.Close(fd)
			if err != nil {
				return fmt.Errorf("sync the file system of %s: %w", dir, err)
			}
			return nil
		}
	}
	unix.Sync()
	return nil
}

// lower returns the lower directories among the options of an overlay.
func lower(options []string) []string {
	for _, o := range options {
		if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
			return strings.Split(dirs, ":")
		}
	}
	return nil
}
