package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sys/unix"
)

// mountPrefix begins the names of the directories at which images are mounted for a moment.
const mountPrefix = "phonehost-image-"

// Digests returns the digests of the images, each once. Error: ErrUnavailable of errdefs when containerd does not answer.
func (s *Store) Digests(ctx context.Context) ([]string, error) {
	found, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var all []string
	for _, img := range found {
		all = append(all, img.Target.Digest.String())
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Files shows fn the root directory of an image's files for this host's platform, read-only and without devices, as a guest that has changed none
// of them would see them. The directory is fn's until that returns. Errors: fn's; ErrNotFound of errdefs where no image has the digest; containerd's.
func (s *Store) Files(ctx context.Context, digest string, fn func(root *os.File) error) (err error) {
	ctx, release, err := s.lease(ctx)
	if err != nil {
		return err
	}
	defer release(false)
	top, err := s.top(ctx, digest)
	if err != nil {
		return err
	}
	sn := s.unpacker.service()
	// The lease keeps the view and what is below it, and takes it away where this agent cannot.
	key := fmt.Sprintf("phonehost-files-%s-%d", top, time.Now().UnixNano())
	mounts, err := sn.View(ctx, key, top)
	if err != nil {
		return fmt.Errorf("view the files of image %s: %w", digest, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if gone := sn.Remove(ctx, key); err == nil && gone != nil {
			err = fmt.Errorf("let go of the files of image %s: %w", digest, gone)
		}
	}()
	root, err := s.mount(mounts)
	if err != nil {
		return fmt.Errorf("mount image %s: %w", digest, err)
	}
	defer root.Close()
	return fn(root)
}

// top returns the snapshot that holds all files of an image.
func (s *Store) top(ctx context.Context, digest string) (string, error) {
	found, err := s.client.ImageService().List(ctx, fmt.Sprintf("target.digest==%q", digest))
	if err != nil {
		return "", fmt.Errorf("find image %s: %w", digest, err)
	}
	found = slices.DeleteFunc(found, func(img images.Image) bool { return img.Target.Digest.String() != digest })
	if len(found) == 0 {
		return "", fmt.Errorf("image %s is not on this host: %w", digest, errdefs.ErrNotFound)
	}
	layers, err := containerd.NewImageWithPlatform(s.client, found[0], platforms.Default()).RootFS(ctx)
	if err != nil {
		return "", fmt.Errorf("layers of image %s: %w", found[0].Name, err)
	}
	// While another image is unpacked, which takes minutes, this one is not to wait.
	chain := identity.ChainID(layers).String()
	if info, err := s.unpacker.service().Stat(ctx, chain); err == nil && info.Labels[labelDurable] != "" {
		return chain, nil
	}
	return s.unpacker.Unpack(ctx, found[0])
}

// mount mounts what a snapshotter has and returns its root directory, which alone keeps the mount: no path leads to it when mount has returned.
func (s *Store) mount(mounts []mount.Mount) (*os.File, error) {
	dir, err := os.MkdirTemp(s.mountDir, mountPrefix)
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	safe := slices.Clone(mounts)
	for i := range safe {
		safe[i].Options = append(slices.Clone(safe[i].Options), "ro", "nosuid", "nodev", "noexec")
	}
	if err := mount.All(safe, dir); err != nil {
		return nil, errors.Join(err, detach(dir))
	}
	root, err := os.Open(dir)
	if gone := detach(dir); err == nil && gone != nil {
		root.Close()
		err = gone
	}
	return root, err
}

// detach takes what is mounted at a directory out of the file tree; those who have it open keep it.
func detach(dir string) error {
	for {
		err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // nothing is mounted there any more
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
}

// sweepMounts takes away the mounts that a dead agent has left.
func (s *Store) sweepMounts() error {
	if s.mountDir == "" {
		return nil // others' directories are there too
	}
	entries, err := os.ReadDir(s.mountDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), mountPrefix) {
			continue
		}
		dir := filepath.Join(s.mountDir, e.Name())
		errs = append(errs, detach(dir), os.Remove(dir))
	}
	return errors.Join(errs...)
}
