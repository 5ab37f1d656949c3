package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"

	"github.com/phonehost/phonehost/agent/fault"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/image"
)

// memoryStore keeps images in memory: a test of the service needs errors that containerd does not give when asked.
type memoryStore struct {
	images []image.Image
	err    error
	got    []byte
	vendor []byte
	name   string
	dir    string
}

func (s *memoryStore) Pull(ctx context.Context, ref string, progress func(image.Progress)) (image.Image, error) {
	for i := range uint64(3) {
		progress(image.Progress{Step: "fetching", FetchedBytes: i, TotalBytes: 2})
	}
	return image.Image{Name: ref, Digest: "sha256:1", SizeBytes: 5, CreatedAt: time.Unix(7, 0), Platforms: []string{"linux/arm64"}}, s.err
}

func (s *memoryStore) Import(ctx context.Context, name string, archive io.Reader) (image.Image, error) {
	b, err := io.ReadAll(archive)
	s.got, s.name = b, name
	return image.Image{Name: name}, errors.Join(err, s.err)
}

func (s *memoryStore) ImportWaydroid(ctx context.Context, name string, w image.Waydroid) (image.Image, error) {
	system, err := io.ReadAll(w.System)
	if err != nil {
		return image.Image{}, err
	}
	if err := w.Room(); err != nil {
		return image.Image{}, err
	}
	vendor, err := io.ReadAll(w.Vendor)
	s.got, s.vendor, s.name, s.dir = system, vendor, name, w.Dir
	return image.Image{Name: name, Profile: "waydroid", AndroidRelease: "13", AndroidSDK: 33}, errors.Join(err, s.err)
}

func (s *memoryStore) List(context.Context) ([]image.Image, error) { return s.images, s.err }

func (s *memoryStore) Get(_ context.Context, ref string) (image.Image, error) {
	for _, img := range s.images {
		if img.Name == ref {
			return img, s.err
		}
	}
	return image.Image{}, errors.Join(s.err, errdefs.ErrNotFound)
}

func (s *memoryStore) Remove(_ context.Context, ref string) error {
	for i, img := range s.images {
		if img.Name == ref {
			s.images = append(s.images[:i], s.images[i+1:]...)
			return nil
		}
	}
	return errdefs.ErrNotFound
}

func TestPullImage(t *testing.T) {
	m := newMedia(t)
	pull := func(name string) ([]*phonehostv1.PullImageResponse, error) {
		call, err := m.images.PullImage(t.Context(), &phonehostv1.PullImageRequest{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		var all []*phonehostv1.PullImageResponse
		for {
			answer, err := call.Recv()
			if errors.Is(err, io.EOF) {
				return all, nil
			}
			if err != nil {
				return all, err
			}
			all = append(all, answer)
		}
	}
	all, err := pull("phonehost.dev/used:1")
	if err != nil || len(all) != 4 {
		t.Fatalf("%d answers, %v", len(all), err)
	}
	if p := all[2]; p.GetProgress() != "fetching" || p.GetFetchedBytes() != 2 || p.GetTotalBytes() != 2 || p.GetImage() != nil {
		t.Errorf("progress %v", p)
	}
	if img := all[3].GetImage(); img.GetName() != "phonehost.dev/used:1" || img.GetDigest() != "sha256:1" || img.GetSizeBytes() != 5 || img.GetPhones() != 2 || img.GetCreateTime().GetSeconds() != 7 {
		t.Errorf("image %v", img)
	}
	_, err = pull("")
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "name: is empty")
	m.store.err = errdefs.ErrUnavailable
	_, err = pull("registry.example/x:1")
	wantStatus(t, err, codes.Unavailable, "", "unavailable")
	m.diskFree = 1
	_, err = pull("registry.example/x:1")
	wantStatus(t, err, codes.ResourceExhausted, fault.DiskLow, "reserve of 1024 MiB")
}

func TestImportImage(t *testing.T) {
	m := newMedia(t)
	send := func(messages ...*phonehostv1.ImportImageRequest) (*phonehostv1.ImportImageResponse, error) {
		call, err := m.images.ImportImage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range messages {
			if err := call.Send(q); err != nil {
				break // CloseAndRecv tells why
			}
		}
		return call.CloseAndRecv()
	}
	chunk := func(n int) *phonehostv1.ImportImageRequest {
		return &phonehostv1.ImportImageRequest{Chunk: bytes.Repeat([]byte{7}, n)}
	}
	first := chunk(3)
	first.Name = "phonehost.dev/new:1"
	answer, err := send(first, chunk(64<<10), chunk(0), chunk(5))
	if err != nil || answer.GetImage().GetName() != "phonehost.dev/new:1" {
		t.Fatalf("answer %v, %v", answer, err)
	}
	if !bytes.Equal(m.store.got, bytes.Repeat([]byte{7}, 3+(64<<10)+5)) {
		t.Errorf("the store got %d bytes", len(m.store.got))
	}
	_, err = send(chunk(64<<10 + 1))
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "chunk: 65537")
	_, err = send(first, chunk(64<<10+1))
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "chunk: 65537")
	_, err = send(first, first)
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "name: is for the first message only")
	_, err = send()
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "before its first message")
	m.store.err = errdefs.ErrInvalidArgument
	_, err = send(first)
	wantStatus(t, err, codes.InvalidArgument, "", "invalid argument")
	m.diskFree = 1
	_, err = send(first)
	wantStatus(t, err, codes.ResourceExhausted, fault.DiskLow, "reserve")
}

func TestImportWaydroid(t *testing.T) {
	const system, vendor = phonehostv1.WaydroidPart_WAYDROID_PART_SYSTEM, phonehostv1.WaydroidPart_WAYDROID_PART_VENDOR
	m := newMedia(t)
	send := func(messages ...*phonehostv1.ImportWaydroidRequest) (*phonehostv1.ImportWaydroidResponse, error) {
		call, err := m.images.ImportWaydroid(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range messages {
			if err := call.Send(q); err != nil {
				break // CloseAndRecv tells why
			}
		}
		return call.CloseAndRecv()
	}
	chunk := func(part phonehostv1.WaydroidPart, n int) *phonehostv1.ImportWaydroidRequest {
		return &phonehostv1.ImportWaydroidRequest{Part: part, Chunk: bytes.Repeat([]byte{byte(part)}, n)}
	}
	first := chunk(system, 3)
	first.Name = "phonehost.dev/waydroid:20"
	answer, err := send(first, chunk(system, 64<<10), chunk(system, 0), chunk(vendor, 0), chunk(vendor, 7), chunk(vendor, 64<<10))
	if img := answer.GetImage(); err != nil || img.GetName() != first.Name || img.GetProfile() != "waydroid" || img.GetAndroidRelease() != "13" || img.GetAndroidSdk() != 33 {
		t.Fatalf("answer %v, %v", answer, err)
	}
	if !bytes.Equal(m.store.got, bytes.Repeat([]byte{1}, 3+(64<<10))) || !bytes.Equal(m.store.vendor, bytes.Repeat([]byte{2}, 7+(64<<10))) || m.store.dir != m.dir {
		t.Errorf("the store got %d and %d bytes, to be kept in %s", len(m.store.got), len(m.store.vendor), m.store.dir)
	}
	if _, err = send(first); err != nil || len(m.store.vendor) != 0 {
		t.Errorf("without a vendor's image, which the store judges: %v, %d bytes", err, len(m.store.vendor))
	}
	_, err = send()
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "before its first message")
	_, err = send(chunk(system, 1))
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "name: is empty")
	_, err = send(first, chunk(vendor, 1), chunk(system, 1))
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "goes on after the vendor's")
	_, err = send(first, chunk(0, 1))
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "part: 0 is neither")
	_, err = send(first, chunk(3, 1))
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "part: 3 is neither")
	_, err = send(first, chunk(system, 64<<10+1))
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "chunk: 65537")
	_, err = send(first, first)
	wantStatus(t, err, codes.InvalidArgument, fault.InvalidField, "name: is for the first message only")
	m.store.err = errdefs.ErrInvalidArgument
	_, err = send(first, chunk(vendor, 1))
	wantStatus(t, err, codes.InvalidArgument, "", "invalid argument")
	m.diskFree = 1
	_, err = send(first)
	wantStatus(t, err, codes.ResourceExhausted, fault.DiskLow, "reserve")
}

func TestListAndRemoveImages(t *testing.T) {
	m := newMedia(t)
	m.store.images = []image.Image{{Name: "phonehost.dev/free:1", Profile: "testphone"}, {Name: "phonehost.dev/used:1"}}
	list, err := m.images.ListImages(t.Context(), &phonehostv1.ListImagesRequest{})
	if err != nil || len(list.GetImages()) != 2 || list.GetImages()[0].GetProfile() != "testphone" || list.GetImages()[1].GetPhones() != 2 {
		t.Fatalf("images %v, %v", list, err)
	}
	remove := func(name string) error {
		_, err := m.images.RemoveImage(t.Context(), &phonehostv1.RemoveImageRequest{Name: name})
		return err
	}
	wantStatus(t, remove("phonehost.dev/used:1"), codes.FailedPrecondition, ImageInUse, "named by 2 phones")
	wantStatus(t, remove("phonehost.dev/none:1"), codes.NotFound, fault.NoSuchImage, "none:1")
	if err := remove("phonehost.dev/free:1"); err != nil {
		t.Error(err)
	}
	wantStatus(t, remove("phonehost.dev/free:1"), codes.NotFound, fault.NoSuchImage, "free:1")
	m.store.err = errdefs.ErrUnavailable
	_, err = m.images.ListImages(t.Context(), &phonehostv1.ListImagesRequest{})
	wantStatus(t, err, codes.Unavailable, "", "unavailable")
}
