package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"

	"github.com/phonehost/phonehost/agent/data"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/runtime/volume/archive"
)

// volumes is the engine's side of DataService over a host in memory. Every phone has the files of one directory, which are exported as
// the engine does it.
type volumes struct {
	world *phonetest.World
	dir   string
	free  atomic.Uint64 // what the host's disk has free
	ended chan string   // the phones whose export has ended
}

func (v *volumes) DataUsage(_ context.Context, ids ...string) (all []container.DataUsage, err error) {
	v.world.Lock()
	defer v.world.Unlock()
	for id, b := range v.world.Bodies {
		for generation, volumeOf := range b.Volumes {
			if len(ids) == 0 || slices.Contains(ids, id) {
				all = append(all, container.DataUsage{PhoneID: id, Generation: generation, Usage: volume.Usage{
					Bytes: volumeOf.Bytes, AllocatedBytes: 1 << 20, CapacityBytes: volumeOf.Bytes / 2, FreeBytes: volumeOf.Bytes / 4, Files: 100, FreeFiles: 90,
					Live: b.Guest.State == container.TaskRunning,
				}})
			}
		}
	}
	slices.SortFunc(all, func(a, b container.DataUsage) int { return strings.Compare(a.PhoneID, b.PhoneID) })
	return all, nil
}

func (v *volumes) DataSpace(ctx context.Context) (container.DataSpace, error) {
	s := container.DataSpace{HostBytes: 100 << 30, HostFreeBytes: 1 << 30}
	all, err := v.DataUsage(ctx)
	for _, u := range all {
		s.Volumes++
		s.PromisedBytes += u.Bytes
		s.AllocatedBytes += u.AllocatedBytes
	}
	return s, err
}

func (v *volumes) ExportData(ctx context.Context, p container.Phone, m archive.Manifest, w io.Writer) (archive.Manifest, error) {
	defer func() { v.ended <- p.ID }()
	v.world.Lock()
	b := v.world.Bodies[p.ID]
	v.world.Unlock()
	if b == nil {
		return archive.Manifest{}, fmt.Errorf("data of %s: %w", p.ID, errdefs.ErrNotFound)
	}
	root, err := os.OpenRoot(v.dir)
	if err != nil {
		return archive.Manifest{}, err
	}
	defer root.Close()
	m.Phone, m.Profile, m.Image, m.ImageDigest, m.VolumeBytes = p.ID, p.Profile, p.Image, p.ImageDigest, p.DataBytes
	return archive.Export(ctx, root, m, w)
}

// newVolumes returns what DataService needs, and the directory of its spool.
func newVolumes(t testing.TB, w *phonetest.World) (*volumes, *data.Spool, string) {
	t.Helper()
	v := &volumes{world: w, dir: t.TempDir(), ended: make(chan string, 100)}
	v.free.Store(math.MaxUint64)
	// Nothing of it can be compressed away: it takes several messages.
	noise := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise) // never fails
	for name, content := range map[string][]byte{"notes": []byte("milk, bread"), "noise": noise} {
		if err := os.WriteFile(filepath.Join(v.dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "spool")
	spool, err := data.NewSpool(dir, func() (uint64, error) { return v.free.Load(), nil }, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return v, spool, dir
}

// off makes a phone that is off and has data.
func (s *server) off(t testing.TB, id string) {
	t.Helper()
	s.on(t, id)
	answer, err := s.phones.PowerOff(t.Context(), &phonehostv1.PowerOffRequest{PhoneIds: []string{id}, Force: true})
	if err != nil {
		t.Fatal(err)
	}
	s.finish(t, answer.GetOperation())
}

// export receives an archive as a client does.
func (s *server) export(t testing.TB, id string) (*phonehostv1.DataManifest, []byte, error) {
	t.Helper()
	stream, err := s.data.ExportData(t.Context(), &phonehostv1.ExportDataRequest{PhoneId: id})
	if err != nil {
		t.Fatal(err)
	}
	var manifest *phonehostv1.DataManifest
	var all []byte
	read := uint64(0)
	for {
		m, err := stream.Recv()
		if err != nil {
			return manifest, all, err
		}
		if (manifest == nil) != (m.GetManifest() != nil) {
			t.Fatalf("the manifest must be in the first message alone: %v", m)
		}
		if m.GetManifest() != nil {
			manifest = m.GetManifest()
		}
		if c := m.GetChunk(); c != nil {
			if n := len(c.GetData()); n == 0 || n > maxChunk || c.GetContentBytes() < read {
				t.Errorf("a chunk of %d bytes, %d read after %d", n, c.GetContentBytes(), read)
			}
			read = c.GetContentBytes()
			all = append(all, c.GetData()...)
		}
		if end := m.GetEnd(); end != nil {
			sum := sha256.Sum256(all)
			if end.GetSizeBytes() != uint64(len(all)) || !bytes.Equal(end.GetSha256(), sum[:]) || read != manifest.GetContentBytes() {
				t.Errorf("end %v after %d bytes with %x, %d of %d read", end, len(all), sum, read, manifest.GetContentBytes())
			}
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("after the end: %v", err)
			}
			return manifest, all, nil
		}
	}
}

// importing sends an archive as a client does.
func (s *server) importing(t testing.TB, start *phonehostv1.ImportDataStart, archive []byte) (*phonehostv1.ImportDataResponse, error) {
	t.Helper()
	stream, err := s.data.ImportData(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	q := &phonehostv1.ImportDataRequest{}
	if start != nil {
		q.Message = &phonehostv1.ImportDataRequest_Start{Start: start}
	}
	for err := stream.Send(q); err == nil && len(archive) > 0; {
		n := min(len(archive), maxChunk)
		err = stream.Send(&phonehostv1.ImportDataRequest{Message: &phonehostv1.ImportDataRequest_Chunk{Chunk: archive[:n]}})
		archive = archive[n:]
	}
	return stream.CloseAndRecv()
}

func TestData(t *testing.T) {
	s := start(t)
	s.off(t, "p1")
	s.off(t, "p2")
	s.on(t, "p3")
	manifest, archived, err := s.export(t, "p1")
	if err != nil {
		t.Fatal(err)
	}
	if m := manifest; m.GetPhoneId() != "p1" || m.GetProfile() != "testphone" || m.GetAndroidVersion() != "13" || m.GetImageDigest() != "sha256:1" ||
		m.GetVolumeBytes() != 4<<30 || m.GetEntries() != 3 || m.GetContentBytes() != 1<<20+11 || m.GetFormat() != archive.Format || m.GetCreateTime() == nil {
		t.Errorf("manifest: %v", m)
	}
	if len(archived) < maxChunk {
		t.Errorf("the archive of %d bytes fits one message, which tests little", len(archived))
	}

	sum := sha256.Sum256(archived)
	start := &phonehostv1.ImportDataStart{PhoneId: "p2", RequestId: "r1", Sha256: sum[:], SizeBytes: uint64(len(archived))}
	answer, err := s.importing(t, start, archived)
	if err != nil {
		t.Fatal(err)
	}
	if answer.GetManifest().GetPhoneId() != "p1" || answer.GetOperation().GetKind() != phonehostv1.OperationKind_OPERATION_KIND_IMPORT_DATA {
		t.Errorf("answer: %v", answer)
	}
	op := s.finish(t, answer.GetOperation())
	if op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Errorf("import: %v", op)
	}
	s.world.Lock()
	if got := s.world.Bodies["p2"].Volumes; len(got) != 1 || got[2].Content != string(archived) {
		t.Errorf("there are %d volumes", len(got))
	}
	s.world.Unlock()
	if left, err := os.ReadDir(s.spool); err != nil || len(left) != 0 {
		t.Errorf("%d archives are left, %v", len(left), err)
	}
	// A retry: without the archive where its digest is named, else with it.
	for _, start := range []*phonehostv1.ImportDataStart{start, {PhoneId: "p2", RequestId: "r1"}} {
		again, err := s.importing(t, start, archived)
		if err != nil || again.GetOperation().GetId() != op.GetId() {
			t.Errorf("a retry: %v, %v", again, err)
		}
	}
	if left, err := os.ReadDir(s.spool); err != nil || len(left) != 0 {
		t.Errorf("retries leave %d archives, %v", len(left), err)
	}

	list, err := s.data.ListData(t.Context(), &phonehostv1.ListDataRequest{})
	if err != nil || len(list.GetVolumes()) != 3 {
		t.Fatalf("usage: %v, %v", list, err)
	}
	if v := list.GetVolumes()[2]; v.GetPhoneId() != "p3" || v.GetGeneration() != 1 || !v.GetLive() || v.GetSizeBytes() != 4<<30 || v.GetAllocatedBytes() != 1<<20 ||
		v.GetCapacityBytes() != 2<<30 || v.GetFreeBytes() != 1<<30 || v.GetFiles() != 100 || v.GetFreeFiles() != 90 {
		t.Errorf("usage of p3: %v", v)
	}
	if p := list.GetSpace(); p.GetVolumes() != 3 || p.GetPromisedBytes() != 12<<30 || p.GetHostBytes() != 100<<30 || math.Round(p.GetOvercommit()) != 12 {
		t.Errorf("space: %v", p)
	}
	if list, err := s.data.ListData(t.Context(), &phonehostv1.ListDataRequest{PhoneIds: []string{"p2"}}); err != nil || len(list.GetVolumes()) != 1 ||
		list.GetVolumes()[0].GetGeneration() != 2 || list.GetSpace().GetVolumes() != 3 {
		t.Errorf("usage of p2: %v, %v", list, err)
	}

	s.create(t, "new")
	trimmed, err := s.data.TrimData(t.Context(), &phonehostv1.TrimDataRequest{PhoneIds: []string{"p1", "nobody", "p3", "new"}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", fault.NoSuchPhone, "", data.NoData} {
		if r := trimmed.GetResults()[i]; r.GetFailure().GetReason() != want || (r.GetTrimmedBytes() > 0) != (want == "") {
			t.Errorf("trim: %v, want reason %q", r, want)
		}
	}
}

func TestDataErrors(t *testing.T) {
	s := start(t)
	s.off(t, "off")
	s.on(t, "running")
	s.create(t, "new")
	_, good, err := s.export(t, "off")
	if err != nil {
		t.Fatal(err)
	}
	wrong := sha256.Sum256([]byte("something else"))
	to := func(id string) *phonehostv1.ImportDataStart { return &phonehostv1.ImportDataStart{PhoneId: id} }
	// made is an archive of another phone.
	made := func(m archive.Manifest) []byte {
		root, err := os.OpenRoot(s.volumes.dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		var b bytes.Buffer
		if _, err := archive.Export(t.Context(), root, m, &b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprintf("p%d", i)
	}
	field := func(name string) refusal { return refusal{codes.InvalidArgument, fault.InvalidField, name} }
	for name, tt := range map[string]struct {
		call func() error
		want refusal
	}{
		"import without start": {func() error { return second(s.importing(t, nil, nil)) }, field("start")},
		"import start twice": {func() error {
			stream, err := s.data.ImportData(t.Context())
			if err != nil {
				return err
			}
			for range 2 {
				if err := stream.Send(&phonehostv1.ImportDataRequest{Message: &phonehostv1.ImportDataRequest_Start{Start: to("off")}}); err != nil {
					t.Fatal(err)
				}
			}
			return second(stream.CloseAndRecv())
		}, field("start")},
		"import large chunk": {func() error {
			stream, err := s.data.ImportData(t.Context())
			if err != nil {
				return err
			}
			for _, q := range []*phonehostv1.ImportDataRequest{
				{Message: &phonehostv1.ImportDataRequest_Start{Start: to("off")}}, {Message: &phonehostv1.ImportDataRequest_Chunk{Chunk: make([]byte, maxChunk+1)}},
			} {
				if err := stream.Send(q); err != nil {
					t.Fatal(err)
				}
			}
			return second(stream.CloseAndRecv())
		}, field("chunk")},
		"import digest that is none": {func() error {
			return second(s.importing(t, &phonehostv1.ImportDataStart{PhoneId: "off", Sha256: []byte("x")}, good))
		}, field("start.sha256")},
		"import request id": {func() error {
			return second(s.importing(t, &phonehostv1.ImportDataStart{PhoneId: "off", RequestId: strings.Repeat("x", 65)}, good))
		}, field("request_id")},
		"import other size": {func() error {
			return second(s.importing(t, &phonehostv1.ImportDataStart{PhoneId: "off", SizeBytes: uint64(len(good)) + 1}, good))
		}, field("chunk")},
		"import other bytes": {func() error {
			return second(s.importing(t, &phonehostv1.ImportDataStart{PhoneId: "off", Sha256: wrong[:]}, good))
		}, refusal{Code: codes.DataLoss, Reason: data.DigestMismatch}},
		"import too large": {func() error {
			return second(s.importing(t, &phonehostv1.ImportDataStart{PhoneId: "off", SizeBytes: 5 << 30}, nil))
		}, refusal{Code: codes.OutOfRange, Reason: data.TooLarge}},
		"import unknown phone": {func() error { return second(s.importing(t, to("nobody"), good)) }, refusal{Code: codes.NotFound, Reason: fault.NoSuchPhone}},
		"import running":       {func() error { return second(s.importing(t, to("running"), good)) }, refusal{Code: codes.FailedPrecondition, Reason: fault.NotOff}},
		"import no archive":    {func() error { return second(s.importing(t, to("off"), []byte("hello"))) }, refusal{Code: codes.InvalidArgument, Reason: data.BadArchive}},
		"import nothing":       {func() error { return second(s.importing(t, to("off"), nil)) }, refusal{Code: codes.InvalidArgument, Reason: data.BadArchive}},
		"import cut short": {func() error { return second(s.importing(t, to("off"), good[:len(good)/2])) },
			refusal{Code: codes.DataLoss, Reason: data.Damaged}},
		"import damaged": {func() error {
			bad := bytes.Clone(good)
			bad[len(bad)/2] ^= 1
			return second(s.importing(t, to("off"), bad))
		}, refusal{Code: codes.DataLoss, Reason: data.Damaged}},
		"import newer Android": {func() error {
			return second(s.importing(t, to("off"), made(archive.Manifest{Profile: "testphone", AndroidVersion: "14"})))
		}, refusal{Code: codes.FailedPrecondition, Reason: fault.DataNewer}},
		"import other profile": {func() error {
			return second(s.importing(t, to("off"), made(archive.Manifest{Profile: "redroid"})))
		}, refusal{Code: codes.FailedPrecondition, Reason: fault.WrongProfile}},
		"export unknown phone": {func() error { _, _, err := s.export(t, "nobody"); return err }, refusal{Code: codes.NotFound, Reason: fault.NoSuchPhone}},
		"export running":       {func() error { _, _, err := s.export(t, "running"); return err }, refusal{Code: codes.FailedPrecondition, Reason: fault.NotOff}},
		"export without data":  {func() error { _, _, err := s.export(t, "new"); return err }, refusal{Code: codes.NotFound, Reason: data.NoData}},
		"list many": {func() error {
			return second(s.data.ListData(t.Context(), &phonehostv1.ListDataRequest{PhoneIds: many}))
		}, field("phone_ids")},
		"list unknown": {func() error {
			return second(s.data.ListData(t.Context(), &phonehostv1.ListDataRequest{PhoneIds: []string{"nobody"}}))
		}, refusal{Code: codes.NotFound, Reason: fault.NoSuchPhone}},
		"trim none": {func() error { return second(s.data.TrimData(t.Context(), &phonehostv1.TrimDataRequest{})) }, field("phone_ids")},
		"trim many": {func() error {
			return second(s.data.TrimData(t.Context(), &phonehostv1.TrimDataRequest{PhoneIds: many[:101]}))
		}, field("phone_ids")},
	} {
		t.Run(name, func(t *testing.T) {
			if got := readError(t, tt.call()); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	s.volumes.free.Store(1 << 20)
	if got := readError(t, second(s.importing(t, to("off"), good))); got.Reason != fault.DiskLow || got.Code != codes.ResourceExhausted {
		t.Errorf("import on a full disk: %+v", got)
	}
	if left, err := os.ReadDir(s.spool); err != nil || len(left) != 0 {
		t.Errorf("%d archives are left, %v", len(left), err)
	}
	if snap, err := s.sup.Get("off"); err != nil || snap.Record.DataGeneration != 1 {
		t.Errorf("something has changed: %+v, %v", snap.Record, err)
	}
}

// TestExportHoldsThePhone has a caller that reads nothing: the phone is held until it goes away, or a deletion by force comes.
func TestExportHoldsThePhone(t *testing.T) {
	s := start(t)
	for _, id := range []string{"left", "deleted"} {
		s.off(t, id)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := s.data.ExportData(ctx, &phonehostv1.ExportDataRequest{PhoneId: id})
		if err != nil {
			t.Fatal(err)
		}
		if first, err := stream.Recv(); err != nil || first.GetManifest() == nil {
			t.Fatalf("%v, %v", first, err)
		}
		_, err = s.phones.PowerOn(t.Context(), &phonehostv1.PowerOnRequest{PhoneIds: []string{id}})
		if got := readError(t, err); got.Reason != fault.Busy {
			t.Errorf("power on while the data is exported: %v", err)
		}
		if id == "left" {
			cancel()
			s.untilFree(t, id)
			continue
		}
		answer, err := s.phones.Delete(t.Context(), &phonehostv1.DeleteRequest{PhoneIds: []string{id}, Force: true})
		if err != nil {
			t.Fatal(err)
		}
		// Deleting a real phone waits for the export to let go of its volume: the caller, who reads nothing, must not be needed for that.
		for s.finish(t, answer.GetOperation()); ; {
			select {
			case ended := <-s.volumes.ended:
				if ended != id {
					continue
				}
			case <-time.After(30 * time.Second):
				t.Fatal("the export goes on after a deletion by force")
			}
			break
		}
		for err = nil; err == nil; {
			_, err = stream.Recv()
		}
		if got := readError(t, err); got.Code != codes.Aborted || got.Reason != fault.Superseded {
			t.Errorf("the export ended with %v", err)
		}
	}
}

// untilFree waits until nobody holds a phone. What holds it ends with the call, but on a goroutine of the server.
func (s *server) untilFree(t *testing.T, id string) {
	t.Helper()
	for {
		_, err := s.sup.Submit(t.Context(), phone.Request{Kind: operation.PowerOn, IDs: []string{id}})
		if fault.Reason(err) != fault.Busy {
			if err != nil {
				t.Error(err)
			}
			return
		}
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestExportOfACallerWhoStalls ends when nobody takes what it sends.
func TestExportOfACallerWhoStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &exportSink{ctx: t.Context(), messages: make(chan *phonehostv1.ExportDataResponse), sum: sha256.New()}
		go func() { <-sink.messages }()
		if err := sink.Begun(archive.Manifest{}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err := sink.Write([]byte("much"))
		if fault.Reason(err) != data.CallerStalled || time.Since(began) != exportPatience {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}
