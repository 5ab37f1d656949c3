package image

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
)

// Labels of an image's configuration.
const (
	// ProfileLabel names its profile.
	ProfileLabel = "dev.phonehost.profile"
	// AndroidReleaseLabel and AndroidSDKLabel are its version of Android ("13") and the API level of that ("33").
	AndroidReleaseLabel = "dev.phonehost.android-release"
	AndroidSDKLabel     = "dev.phonehost.android-sdk"
)

// Image is one image of this host.
type Image struct {
	// Name is its full reference, such as "phonehost.dev/testphone:latest".
	Name string
	// Digest is that of its index or manifest, "sha256:...".
	Digest string
	// SizeBytes is the size of its stored content for this host's platform.
	SizeBytes uint64
	// CreatedAt is when this host got it.
	CreatedAt time.Time
	// Profile is what its label names, or empty.
	Profile string
	// AndroidRelease and AndroidSDK are the version of Android that its labels name, or empty and 0.
	AndroidRelease string
	AndroidSDK     uint32
	// Platforms are those that it holds content for, such as "linux/arm64".
	Platforms []string
}

// Config says what a Store needs.
type Config struct {
	// Client speaks to containerd, with a default namespace set. The caller closes it.
	Client *containerd.Client
	// Unpacker unpacks the layers; nil means one of the Store's own, with containerd's default snapshotter.
	Unpacker *Unpacker
	// MountDir is a directory of the Store's own, where it mounts images for moments; empty means the system's directory for temporary files.
	MountDir string
}

// Store is the images of this host.
type Store struct {
	client   *containerd.Client
	unpacker *Unpacker
	mountDir string
}

// New returns the store behind the client.
func New(config Config) (*Store, error) {
	if config.Client == nil {
		return nil, fmt.Errorf("image store: no containerd client: %w", errdefs.ErrInvalidArgument)
	}
	s := &Store{client: config.Client, unpacker: config.Unpacker, mountDir: config.MountDir}
	if s.unpacker == nil {
		var err error
		if s.unpacker, err = NewUnpacker(config.Client, ""); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	return s, nil
}

// FullName returns a reference as containerd stores it: with its registry's host and a tag or digest. Error: ErrInvalidArgument of errdefs.
func FullName(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("image reference %q: %v, want HOST/NAME:TAG or HOST/NAME@sha256:DIGEST: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	return named.String(), nil
}

// List returns the images in order of their names. Error: ErrUnavailable of errdefs when containerd does not answer.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	found, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	list := make([]Image, 0, len(found))
	for _, f := range found {
		img, err := s.describe(ctx, f)
		if errdefs.IsNotFound(err) {
			continue // being removed, or content of another platform alone
		}
		if err != nil {
			return nil, err
		}
		list = append(list, img)
	}
	slices.SortFunc(list, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Get returns one image. Errors: ErrInvalidArgument for a bad reference, ErrNotFound.
func (s *Store) Get(ctx context.Context, ref string) (Image, error) {
	name, err := FullName(ref)
	if err != nil {
		return Image{}, err
	}
	found, err := s.client.ImageService().Get(ctx, name)
	if errdefs.IsNotFound(err) {
		return Image{}, fmt.Errorf("image %s is not on this host: %w", name, errdefs.ErrNotFound)
	}
	if err != nil {
		return Image{}, fmt.Errorf("get image %s: %w", name, err)
	}
	return s.describe(ctx, found)
}

// Remove removes an image, and its content as far as nothing else needs it; phones that run go on. Errors: ErrInvalidArgument,
// ErrNotFound.
func (s *Store) Remove(ctx context.Context, ref string) error {
	name, err := FullName(ref)
	if err != nil {
		return err
	}
	err = s.client.ImageService().Delete(ctx, name, images.SynchronousDelete())
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("image %s is not on this host: %w", name, errdefs.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	return nil
}

// describe reads what an image says of itself.
func (s *Store) describe(ctx context.Context, found images.Image) (Image, error) {
	img := containerd.NewImageWithPlatform(s.client, found, platforms.Default())
	size, err := img.Size(ctx)
	if err != nil {
		return Image{}, fmt.Errorf("size of image %s: %w", found.Name, err)
	}
	spec, err := img.Spec(ctx)
	if err != nil {
		return Image{}, fmt.Errorf("configuration of image %s: %w", found.Name, err)
	}
	list, err := s.held(ctx, found)
	if err != nil {
		return Image{}, fmt.Errorf("platforms of image %s: %w", found.Name, err)
	}
	labels := spec.Config.Labels
	sdk, err := strconv.ParseUint(labels[AndroidSDKLabel], 10, 32)
	if err != nil {
		sdk = 0 // it does not say
	}
	return Image{
		Name: found.Name, Digest: found.Target.Digest.String(), SizeBytes: uint64(size), CreatedAt: found.CreatedAt,
		Profile: labels[ProfileLabel], AndroidRelease: labels[AndroidReleaseLabel], AndroidSDK: uint32(sdk), Platforms: list,
	}, nil
}

// held returns the platforms whose manifests are in the content store.
func (s *Store) held(ctx context.Context, found images.Image) ([]string, error) {
	all, err := images.Platforms(ctx, s.client.ContentStore(), found.Target)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, p := range all {
		if name := platforms.Format(p); !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list, nil
}
