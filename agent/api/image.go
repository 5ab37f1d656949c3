package api

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/phonehost/phonehost/agent/fault"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/image"
)

// ImageInUse is the reason of a removal that was refused because a phone names the image.
const ImageInUse = "IMAGE_IN_USE"

// ImageStore keeps the images; *image.Store does.
type ImageStore interface {
	Pull(ctx context.Context, ref string, progress func(image.Progress)) (image.Image, error)
	Import(ctx context.Context, name string, archive io.Reader) (image.Image, error)
	ImportWaydroid(ctx context.Context, name string, w image.Waydroid) (image.Image, error)
	List(ctx context.Context) ([]image.Image, error)
	Get(ctx context.Context, ref string) (image.Image, error)
	Remove(ctx context.Context, ref string) error
}

// ImageConfig is what ImageService works with. All fields are required.
type ImageConfig struct {
	// Store keeps the images.
	Store ImageStore
	// Users counts the phones that name an image.
	Users func(ref string) int
	// DiskFree returns the free bytes where images are kept; below DiskReserveBytes pulls and imports are refused.
	DiskFree         func() (uint64, error)
	DiskReserveBytes uint64
	// SpoolDir is where images are kept while they are made from others, in files without a name.
	SpoolDir string
}

// NewImageServer returns the ImageService.
func NewImageServer(cfg ImageConfig) phonehostv1.ImageServiceServer { return &imageServer{cfg: cfg} }

type imageServer struct {
	phonehostv1.UnimplementedImageServiceServer
	cfg ImageConfig
}

func (s *imageServer) PullImage(q *phonehostv1.PullImageRequest, call grpc.ServerStreamingServer[phonehostv1.PullImageResponse]) error {
	if q.GetName() == "" {
		return statusError(fault.Field("name", "is empty: a reference with a registry's host is needed"))
	}
	if err := s.checkDisk(); err != nil {
		return statusError(err)
	}
	ctx, cancel := context.WithCancel(call.Context())
	defer cancel()
	var sent error // Pull reports by one goroutine at a time, and not after it has returned
	img, err := s.cfg.Store.Pull(ctx, q.GetName(), func(p image.Progress) {
		if sent != nil {
			return
		}
		sent = call.Send(&phonehostv1.PullImageResponse{Progress: p.Step, FetchedBytes: p.FetchedBytes, TotalBytes: p.TotalBytes})
		if sent != nil {
			cancel() // nobody listens any more
		}
	})
	if err != nil {
		return statusError(err)
	}
	return call.Send(&phonehostv1.PullImageResponse{Progress: "done", Image: s.toProto(img)})
}

func (s *imageServer) ImportImage(call grpc.ClientStreamingServer[phonehostv1.ImportImageRequest, phonehostv1.ImportImageResponse]) error {
	first, err := call.Recv()
	if errors.Is(err, io.EOF) {
		return statusError(fault.Field("chunk", "the call ended before its first message"))
	}
	if err != nil {
		return statusError(err)
	}
	if err := s.checkDisk(); err != nil {
		return statusError(err)
	}
	archive := &chunkReader{call: call}
	if archive.rest, err = checkChunk(first); err != nil {
		return statusError(err)
	}
	img, err := s.cfg.Store.Import(call.Context(), first.GetName(), archive)
	if archive.err != nil {
		return statusError(archive.err) // what the caller did wrong, before what that did to the archive
	}
	if err != nil {
		return statusError(err)
	}
	return call.SendAndClose(&phonehostv1.ImportImageResponse{Image: s.toProto(img)})
}

// chunkReader reads an archive out of the messages of a call.
type chunkReader struct {
	call grpc.ClientStreamingServer[phonehostv1.ImportImageRequest, phonehostv1.ImportImageResponse]
	rest []byte
	err  error // of the call; not io.EOF
}

// Read returns the next bytes of the archive.
func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		q, err := r.call.Recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err == nil && q.GetName() != "" {
			err = fault.Field("name", "is for the first message only")
		}
		if err == nil {
			r.rest, err = checkChunk(q)
		}
		r.err = err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// checkChunk refuses a message that is larger than messages are.
func checkChunk(q interface{ GetChunk() []byte }) ([]byte, error) {
	if n := len(q.GetChunk()); n > maxChunk {
		return nil, fault.Field("chunk", "%d bytes are more than %d", n, maxChunk)
	}
	return q.GetChunk(), nil
}

func (s *imageServer) ListImages(ctx context.Context, _ *phonehostv1.ListImagesRequest) (*phonehostv1.ListImagesResponse, error) {
	all, err := s.cfg.Store.List(ctx)
	if err != nil {
		return nil, statusError(err)
	}
	answer := new(phonehostv1.ListImagesResponse)
	for _, img := range all {
		answer.Images = append(answer.Images, s.toProto(img))
	}
	return answer, nil
}

// RemoveImage looks for phones first. A phone that is created between the look and the removal is left without its image,
// and says so when it is powered on.
func (s *imageServer) RemoveImage(ctx context.Context, q *phonehostv1.RemoveImageRequest) (*phonehostv1.RemoveImageResponse, error) {
	img, err := s.cfg.Store.Get(ctx, q.GetName())
	if errdefs.IsNotFound(err) {
		return nil, statusError(fault.New(errdefs.ErrNotFound, fault.NoSuchImage, "image %q is not on this host", q.GetName()))
	}
	if err != nil {
		return nil, statusError(err)
	}
	if n := s.cfg.Users(img.Name); n > 0 {
		return nil, statusError(fault.New(errdefs.ErrFailedPrecondition, ImageInUse, "image %s is named by %d phones: delete or reset them to another image first", img.Name, n))
	}
	if err := s.cfg.Store.Remove(ctx, img.Name); err != nil && !errdefs.IsNotFound(err) {
		return nil, statusError(err)
	}
	return &phonehostv1.RemoveImageResponse{}, nil
}

// checkDisk refuses what takes room while the disk is below its low-water mark.
func (s *imageServer) checkDisk() error {
	free, err := s.cfg.DiskFree()
	if err != nil {
		return fmt.Errorf("free space: %w", err)
	}
	if free < s.cfg.DiskReserveBytes {
		return fault.New(errdefs.ErrResourceExhausted, fault.DiskLow, "the host's disk has %d MiB free, below its reserve of %d MiB",
			free>>20, s.cfg.DiskReserveBytes>>20)
	}
	return nil
}

func (s *imageServer) toProto(img image.Image) *phonehostv1.Image {
	return &phonehostv1.Image{
		Name: img.Name, Digest: img.Digest, SizeBytes: img.SizeBytes, CreateTime: timestamppb.New(img.CreatedAt),
		Profile: img.Profile, AndroidRelease: img.AndroidRelease, AndroidSdk: img.AndroidSDK, Platforms: img.Platforms, Phones: uint32(max(s.cfg.Users(img.Name), 0)),
	}
}
