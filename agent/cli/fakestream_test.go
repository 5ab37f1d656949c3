package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

const fakeDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// fakeImages keeps images by name; an archive is good when it begins with "archive".
type fakeImages struct {
	phonehostv1.UnimplementedImageServiceServer
	agent *fakeAgent

	mu     sync.Mutex
	images []*phonehostv1.Image
}

func (f *fakeImages) has(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range f.images {
		if i.GetName() == name {
			return true
		}
	}
	return false
}

func (f *fakeImages) add(name, digest string, size int) *phonehostv1.Image {
	f.mu.Lock()
	defer f.mu.Unlock()
	image := &phonehostv1.Image{
		Name: name, Digest: digest, SizeBytes: uint64(size), Profile: "testphone", Platforms: []string{"linux/amd64", "linux/arm64"},
		CreateTime: timestamppb.New(base),
	}
	f.images = append(f.images, image)
	return image
}

func (f *fakeImages) ImportImage(stream grpc.ClientStreamingServer[phonehostv1.ImportImageRequest, phonehostv1.ImportImageResponse]) error {
	var archive bytes.Buffer
	name := ""
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if len(in.GetChunk()) > 64<<10 {
			return status.Error(codes.InvalidArgument, "chunk over 64 KiB")
		}
		if in.GetName() != "" {
			name = in.GetName()
		}
		archive.Write(in.GetChunk())
	}
	if !strings.HasPrefix(archive.String(), "archive") {
		return status.Error(codes.InvalidArgument, "not an OCI archive")
	}
	if name == "" {
		name = "phonehost.dev/testphone:latest"
	}
	return stream.SendAndClose(&phonehostv1.ImportImageResponse{
		Image: f.add(name, fmt.Sprintf("sha256:%x", sha256.Sum256(archive.Bytes())), archive.Len()),
	})
}

func (f *fakeImages) ImportWaydroid(stream grpc.ClientStreamingServer[phonehostv1.ImportWaydroidRequest, phonehostv1.ImportWaydroidResponse]) error {
	parts := map[phonehostv1.WaydroidPart]*bytes.Buffer{
		phonehostv1.WaydroidPart_WAYDROID_PART_SYSTEM: {}, phonehostv1.WaydroidPart_WAYDROID_PART_VENDOR: {},
	}
	name := ""
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if in.GetName() != "" {
			name = in.GetName()
		}
		parts[in.GetPart()].Write(in.GetChunk())
		if strings.HasPrefix(parts[phonehostv1.WaydroidPart_WAYDROID_PART_SYSTEM].String(), "PK") {
			return status.Error(codes.InvalidArgument, "system.img: this is a zip archive")
		}
	}
	var all []byte
	for _, part := range []phonehostv1.WaydroidPart{phonehostv1.WaydroidPart_WAYDROID_PART_SYSTEM, phonehostv1.WaydroidPart_WAYDROID_PART_VENDOR} {
		all = fmt.Appendf(all, "%v: %s", part, parts[part])
	}
	return stream.SendAndClose(&phonehostv1.ImportWaydroidResponse{Image: f.add(name, fmt.Sprintf("sha256:%x", sha256.Sum256(all)), len(all))})
}

func (f *fakeImages) PullImage(in *phonehostv1.PullImageRequest, stream grpc.ServerStreamingServer[phonehostv1.PullImageResponse]) error {
	if !strings.Contains(in.GetName(), "/") {
		return status.Errorf(codes.InvalidArgument, "reference %q names no registry", in.GetName())
	}
	for _, m := range []*phonehostv1.PullImageResponse{
		{Progress: "resolving"}, {Progress: "fetching", FetchedBytes: 10 << 20, TotalBytes: 30 << 20},
		{Progress: "fetching", FetchedBytes: 30 << 20, TotalBytes: 30 << 20}, {Progress: "unpacking", FetchedBytes: 30 << 20, TotalBytes: 30 << 20},
		{Image: f.add(in.GetName(), fakeDigest, 30<<20)},
	} {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeImages) ListImages(context.Context, *phonehostv1.ListImagesRequest) (*phonehostv1.ListImagesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &phonehostv1.ListImagesResponse{Images: f.images}, nil
}

func (f *fakeImages) RemoveImage(_ context.Context, in *phonehostv1.RemoveImageRequest) (*phonehostv1.RemoveImageResponse, error) {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	for _, p := range f.agent.phones {
		if p.GetSpec().GetImage() == in.GetName() {
			return nil, refuse(codes.FailedPrecondition, "IMAGE_IN_USE", nil, "image %s: phone %s names it", in.GetName(), p.GetSpec().GetId())
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, image := range f.images {
		if image.GetName() == in.GetName() {
			f.images = append(f.images[:i], f.images[i+1:]...)
			return &phonehostv1.RemoveImageResponse{}, nil
		}
	}
	return nil, refuse(codes.NotFound, "NO_SUCH_IMAGE", nil, "image %s: not on this host", in.GetName())
}

// fakeStreams shows video that a test has put there and keeps the input it gets, in words.
type fakeStreams struct {
	phonehostv1.UnimplementedStreamServiceServer
	agent *fakeAgent

	video [][]byte // access units, the first a key frame; set before a viewer attaches
	lose  int      // after so many packets the display is lost and comes back; 0 never

	mu     sync.Mutex
	inputs []string
	acked  uint64
}

// check refuses phones that are not there or do not run.
func (f *fakeStreams) check(id string) error {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	if f.agent.phones[id] == nil {
		return noPhone(id)
	}
	return mustRun(f.agent.phones[id])
}

// window is how many packets the fake sends ahead of their acknowledgement.
const window = 4

func (f *fakeStreams) Attach(stream grpc.BidiStreamingServer[phonehostv1.AttachRequest, phonehostv1.AttachResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if err := f.check(start.GetPhoneId()); err != nil {
		return err
	}
	if err := stream.Send(&phonehostv1.AttachResponse{Message: &phonehostv1.AttachResponse_Attached{Attached: &phonehostv1.Attached{
		ViewerId: "v-1", Width: 240, Height: 320, MaxFps: 30, BitrateKbps: max(start.GetBitrateKbps(), 100), Encoder: "libx264",
	}}}); err != nil {
		return err
	}
	for i, unit := range f.video {
		if f.lose > 0 && i == f.lose {
			if err := errors.Join(
				stream.Send(&phonehostv1.AttachResponse{Message: &phonehostv1.AttachResponse_DisplayLost{DisplayLost: &phonehostv1.DisplayLost{Reason: "it exited with 139"}}}),
				stream.Send(&phonehostv1.AttachResponse{Message: &phonehostv1.AttachResponse_DisplayBack{DisplayBack: &phonehostv1.DisplayBack{Width: 240, Height: 320}}}),
			); err != nil {
				return err
			}
		}
		if err := stream.Send(fakePacket(i, unit)); err != nil {
			return err
		}
		for i+1 >= window+int(f.ackedSeq()) {
			if err := f.takeAck(stream); err != nil {
				return err
			}
		}
	}
	for { // a still screen: nothing is sent until the viewer leaves
		if err := f.takeAck(stream); err != nil {
			return err
		}
	}
}

// fakePacket is the i-th picture: committed now, encoded in 2 ms.
func fakePacket(i int, unit []byte) *phonehostv1.AttachResponse {
	now := time.Now().UnixNano()
	return &phonehostv1.AttachResponse{Message: &phonehostv1.AttachResponse_Packet{Packet: &phonehostv1.Packet{
		Seq: uint64(i + 1), Key: i == 0, Data: unit, Frame: uint64(100 + i), CommitTimeNs: now - 3e6, EncodeStartTimeNs: now - 2e6,
		EncodeEndTimeNs: now, SendTimeNs: now,
	}}}
}

func (f *fakeStreams) ackedSeq() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.acked
}

func (f *fakeStreams) takeAck(stream grpc.BidiStreamingServer[phonehostv1.AttachRequest, phonehostv1.AttachResponse]) error {
	in, err := stream.Recv()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acked = max(f.acked, in.GetAck().GetSeq())
	return nil
}

func (f *fakeStreams) Input(stream grpc.ClientStreamingServer[phonehostv1.InputRequest, phonehostv1.InputResponse]) error {
	events := uint64(0)
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&phonehostv1.InputResponse{Events: events})
		}
		if err != nil {
			return err
		}
		text := ""
		switch m := in.GetMessage().(type) {
		case *phonehostv1.InputRequest_Start:
			if err := f.check(m.Start.GetPhoneId()); err != nil {
				return err
			}
			continue
		case *phonehostv1.InputRequest_Touch:
			if m.Touch.GetX() >= 720 || m.Touch.GetX() < 0 {
				return status.Errorf(codes.InvalidArgument, "touch: x %g is not 0 <= x < 720", m.Touch.GetX())
			}
			text = fmt.Sprintf("%s %g %g", strings.ToLower(strings.TrimPrefix(m.Touch.GetAction().String(), "TOUCH_ACTION_")), m.Touch.GetX(), m.Touch.GetY())
		case *phonehostv1.InputRequest_Key:
			text = fmt.Sprintf("key %d %t", m.Key.GetCode(), m.Key.GetDown())
		case *phonehostv1.InputRequest_Text:
			text = fmt.Sprintf("text %q", m.Text.GetText())
		case *phonehostv1.InputRequest_Wheel:
			text = fmt.Sprintf("wheel %g %g %g %g", m.Wheel.GetX(), m.Wheel.GetY(), m.Wheel.GetDx(), m.Wheel.GetDy())
		}
		events++
		f.mu.Lock()
		f.inputs = append(f.inputs, text)
		f.mu.Unlock()
	}
}

// fakePicture is what the fake's screenshots hold; it comes in two chunks.
const fakePicture = "\x89PNG\r\n\x1a\n and so on"

func (f *fakeStreams) Screenshot(in *phonehostv1.ScreenshotRequest, stream grpc.ServerStreamingServer[phonehostv1.ScreenshotResponse]) error {
	if err := f.check(in.GetPhoneId()); err != nil {
		return err
	}
	return errors.Join(
		stream.Send(&phonehostv1.ScreenshotResponse{Chunk: []byte(fakePicture[:8])}),
		stream.Send(&phonehostv1.ScreenshotResponse{Chunk: []byte(fakePicture[8:])}),
	)
}
