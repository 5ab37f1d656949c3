package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/phonehost/phonehost/runtime/crashpoint"
)

// Import reads an OCI image archive (a tar file, also gzip or zstd compressed), unpacks it and lists it as name, or as the name that the
// archive carries when name is empty. An image of the same name is replaced.
//
// Errors: ErrInvalidArgument of errdefs when it is not a whole OCI archive, has no name, or has nothing for this host's platform. An error
// of the reader comes back as it is. Nothing stays behind after an error.
func (s *Store) Import(ctx context.Context, name string, archive io.Reader) (_ Image, err error) {
	if name != "" {
		if name, err = FullName(name); err != nil {
			return Image{}, err
		}
	}
	ctx, release, err := s.lease(ctx)
	if err != nil {
		return Image{}, err
	}
	defer func() { release(err != nil) }()

	source := &source{r: archive}
	target, carried, err := s.load(ctx, source)
	if err != nil {
		if source.err != nil {
			err = source.err
		}
		return Image{}, fmt.Errorf("import image: %w", err)
	}
	crashpoint.Reached("import/loaded")
	if name == "" {
		if carried == "" {
			return Image{}, fmt.Errorf("import image: the archive names no image (annotation io.containerd.image.name): give a name: %w", errdefs.ErrInvalidArgument)
		}
		if name, err = FullName(carried); err != nil {
			return Image{}, fmt.Errorf("import image: the archive's name: %w", err)
		}
	}
	if err := s.complete(ctx, name, target); err != nil {
		return Image{}, err
	}
	return s.publish(ctx, images.Image{Name: name, Target: target})
}

// source remembers the reader's own error, which must not be taken for damage of the archive.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// load brings an archive's content into the content store and returns its image and the name it carries.
func (s *Store) load(ctx context.Context, r io.Reader) (target ocispec.Descriptor, name string, err error) {
	plain, err := compression.DecompressStream(r)
	if err != nil {
		return target, "", damaged(ctx, err)
	}
	defer plain.Close()
	index, err := archive.ImportIndex(ctx, s.client.ContentStore(), plain)
	if err != nil {
		return target, "", damaged(ctx, err)
	}
	children, err := images.Children(ctx, s.client.ContentStore(), index)
	if err != nil {
		return target, "", damaged(ctx, err)
	}
	for _, c := range children {
		carried := c.Annotations[images.AnnotationImageName]
		if name != "" && carried != "" && carried != name {
			return target, "", fmt.Errorf("the archive holds more than one image, %s and %s: %w", name, carried, errdefs.ErrInvalidArgument)
		}
		if name == "" {
			name = carried
		}
	}
	switch len(children) {
	case 0:
		return target, "", fmt.Errorf("the archive holds no image: %w", errdefs.ErrInvalidArgument)
	case 1:
		return children[0], name, nil
	}
	return index, name, nil // one manifest for each platform, directly in the archive's index
}

// damaged classes an error of reading an archive: everything but the end of the call or of containerd is the archive's fault.
func damaged(ctx context.Context, err error) error {
	if ctx.Err() != nil || errdefs.IsUnavailable(err) || errdefs.IsCanceled(err) || errdefs.IsResourceExhausted(err) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("the archive ends too early: %w", errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("not a whole OCI image archive: %v: %w", err, errdefs.ErrInvalidArgument)
}

// complete checks that the image has all its content for this host's platform, and marks the content as the image's for containerd's
// garbage collector.
func (s *Store) complete(ctx context.Context, name string, target ocispec.Descriptor) error {
	cs, host := s.client.ContentStore(), platforms.Default()
	ok, _, _, missing, err := images.Check(ctx, cs, target, host)
	if err != nil || !ok {
		if ctx.Err() != nil || errdefs.IsUnavailable(err) {
			return fmt.Errorf("check image %s: %w", name, err)
		}
		if err == nil || errdefs.IsNotFound(err) {
			held, _ := images.Platforms(ctx, cs, target)
			var list []string
			for _, p := range held {
				list = append(list, platforms.Format(p))
			}
			return fmt.Errorf("image %s has nothing for %s, only for %v: %w", name, platforms.Format(platforms.DefaultSpec()), list, errdefs.ErrInvalidArgument)
		}
		return fmt.Errorf("check image %s: %v: %w", name, err, errdefs.ErrInvalidArgument)
	}
	if len(missing) > 0 {
		return fmt.Errorf("image %s lacks %d of its parts, the first is %s: %w", name, len(missing), missing[0].Digest, errdefs.ErrInvalidArgument)
	}
	mark := images.SetChildrenMappedLabels(cs, images.FilterPlatforms(images.ChildrenHandler(cs), host), images.ChildGCLabels)
	if err := images.Walk(ctx, mark, target); err != nil {
		return fmt.Errorf("mark the content of image %s: %w", name, err)
	}
	return nil
}

// publish unpacks an image and lists it.
func (s *Store) publish(ctx context.Context, img images.Image) (Image, error) {
	if _, err := s.unpacker.Unpack(ctx, img); err != nil {
		return Image{}, err
	}
	crashpoint.Reached("import/unpacked")
	service := s.client.ImageService()
	stored, err := service.Create(ctx, img)
	if errdefs.IsAlreadyExists(err) {
		stored, err = service.Update(ctx, img, "target")
	}
	if err != nil {
		return Image{}, fmt.Errorf("store image %s: %w", img.Name, err)
	}
	crashpoint.Reached("import/stored")
	return s.describe(ctx, stored)
}
