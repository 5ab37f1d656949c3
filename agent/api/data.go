package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/phonehost/phonehost/agent/data"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/volume/archive"
)

// Volumes is what DataService needs of the engine (container.Engine).
type Volumes interface {
	DataUsage(ctx context.Context, ids ...string) ([]container.DataUsage, error)
	DataSpace(ctx context.Context) (container.DataSpace, error)
	ExportData(ctx context.Context, p container.Phone, m archive.Manifest, w io.Writer) (archive.Manifest, error)
}

// DataConfig is what DataService works with. All fields are required.
type DataConfig struct {
	Phones  *phone.Supervisor
	Volumes Volumes
	Spool   *data.Spool
}

// NewDataServer returns the DataService.
func NewDataServer(cfg DataConfig) phonehostv1.DataServiceServer { return &dataServer{cfg: cfg} }

type dataServer struct {
	phonehostv1.UnimplementedDataServiceServer
	cfg DataConfig
}

func (s *dataServer) ListData(ctx context.Context, q *phonehostv1.ListDataRequest) (*phonehostv1.ListDataResponse, error) {
	if n := len(q.GetPhoneIds()); n > maxListed {
		return nil, statusError(tooManyIDs(n))
	}
	for _, id := range q.GetPhoneIds() {
		if _, err := s.cfg.Phones.Get(id); err != nil {
			return nil, statusError(err)
		}
	}
	volumes, err := s.cfg.Volumes.DataUsage(ctx, q.GetPhoneIds()...)
	if err != nil {
		return nil, statusError(err)
	}
	space, err := s.cfg.Volumes.DataSpace(ctx)
	if err != nil {
		return nil, statusError(err)
	}
	answer := &phonehostv1.ListDataResponse{Space: &phonehostv1.DataSpace{
		Volumes: uint32(space.Volumes), PromisedBytes: space.PromisedBytes, AllocatedBytes: space.AllocatedBytes,
		HostBytes: space.HostBytes, HostFreeBytes: space.HostFreeBytes, Overcommit: space.Overcommit(),
	}}
	for _, v := range volumes {
		answer.Volumes = append(answer.Volumes, &phonehostv1.DataVolume{
			PhoneId: v.PhoneID, Generation: v.Generation, SizeBytes: v.Bytes, AllocatedBytes: v.AllocatedBytes,
			CapacityBytes: v.CapacityBytes, FreeBytes: v.FreeBytes, Files: v.Files, FreeFiles: v.FreeFiles, Live: v.Live,
		})
	}
	return answer, nil
}

type exportStream = grpc.ServerStreamingServer[phonehostv1.ExportDataResponse]

func (s *dataServer) ExportData(q *phonehostv1.ExportDataRequest, call exportStream) error {
	lent, snap, release, err := s.cfg.Phones.Lend(call.Context(), q.GetPhoneId(), "its data is being exported")
	if err != nil {
		return statusError(err)
	}
	lent, end := context.WithCancelCause(lent)
	sink := &exportSink{ctx: lent, messages: make(chan *phonehostv1.ExportDataResponse), sum: sha256.New()}
	var exported error
	// On a goroutine of its own, so that a caller who does not read cannot keep the phone: this call may wait for it, the export does not.
	go func() {
		defer close(sink.messages)
		defer release()
		exported = s.export(lent, snap, sink)
	}()
	for m := range sink.messages {
		if err := call.Send(m); err != nil {
			end(err)
			for range sink.messages { // until the export has ended too
			}
			return statusError(err)
		}
	}
	end(nil)
	if exported != nil {
		return statusError(exported)
	}
	return call.Send(&phonehostv1.ExportDataResponse{Message: &phonehostv1.ExportDataResponse_End{End: &phonehostv1.ExportDataEnd{
		SizeBytes: sink.size, Sha256: sink.sum.Sum(nil),
	}}})
}

// export writes the archive of a phone that was lent. lent ends with a cause when somebody goes before it.
func (s *dataServer) export(lent context.Context, snap phone.Snapshot, to *exportSink) error {
	err := s.cfg.Phones.CheckLent(lent, snap)
	if err == nil {
		r := snap.Record
		_, err = s.cfg.Volumes.ExportData(lent, snap.Next(), archive.Manifest{AndroidVersion: cmp.Or(r.DataAndroid, r.ImageAndroid)}, to)
	}
	id := snap.Record.Spec.ID
	switch {
	case err == nil:
		return nil
	case lent.Err() != nil:
		return context.Cause(lent)
	case fault.Reason(err) != "":
		return err
	case errdefs.IsNotFound(err):
		return fault.New(errdefs.ErrNotFound, data.NoData, "phone %s has no data volume yet: it was not started since it was created", id)
	case errdefs.IsFailedPrecondition(err):
		return fault.New(errdefs.ErrFailedPrecondition, fault.Busy, "phone %s is busy: %s", id, fault.Words(err))
	}
	return err
}

// exportPatience is how long an export waits for its caller to take a message, of at most 64 KiB, before it lets go of the phone.
const exportPatience = time.Minute

// exportSink hands the messages of an export to the call. Only Advanced may be called beside the other methods.
type exportSink struct {
	ctx      context.Context // of the export
	messages chan *phonehostv1.ExportDataResponse
	sum      hash.Hash
	size     uint64
	read     atomic.Uint64
}

func (s *exportSink) send(m *phonehostv1.ExportDataResponse) error {
	patience := time.NewTimer(exportPatience)
	defer patience.Stop()
	select {
	case s.messages <- m:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	case <-patience.C:
		return fault.New(errdefs.ErrAborted, data.CallerStalled, "the caller has taken nothing for %v, and the phone is held no longer", exportPatience)
	}
}

// Begun implements archive.Watcher.
func (s *exportSink) Begun(m archive.Manifest) error {
	return s.send(&phonehostv1.ExportDataResponse{Message: &phonehostv1.ExportDataResponse_Manifest{Manifest: manifestToProto(m)}})
}

// Advanced implements archive.Watcher.
func (s *exportSink) Advanced(bytes uint64) { s.read.Store(bytes) }

// Write implements archive.Watcher.
func (s *exportSink) Write(p []byte) (int, error) {
	s.sum.Write(p)
	s.size += uint64(len(p))
	return execWriter(func(b []byte) error {
		// What is written is the writer's again when Write returns, and the message may not be sent by then.
		return s.send(&phonehostv1.ExportDataResponse{Message: &phonehostv1.ExportDataResponse_Chunk{Chunk: &phonehostv1.ExportDataChunk{
			Data: bytes.Clone(b), ContentBytes: s.read.Load(),
		}}})
	}).Write(p)
}

func manifestToProto(m archive.Manifest) *phonehostv1.DataManifest {
	return &phonehostv1.DataManifest{
		PhoneId: m.Phone, Profile: m.Profile, Image: m.Image, ImageDigest: m.ImageDigest, AndroidVersion: m.AndroidVersion,
		VolumeBytes: m.VolumeBytes, Format: uint32(m.Format), CreateTime: timestamppb.New(m.Created), Entries: m.Entries,
		ContentBytes: m.Bytes, LeftOut: m.LeftOut.Devices + m.LeftOut.Sockets + m.LeftOut.TooDeep,
	}
}

type importStream = grpc.ClientStreamingServer[phonehostv1.ImportDataRequest, phonehostv1.ImportDataResponse]

func (s *dataServer) ImportData(call importStream) error {
	first, err := call.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return statusError(err)
	}
	start := first.GetStart()
	if start == nil {
		return statusError(fault.Field("start", "must be what the first message carries"))
	}
	answer, err := s.importData(call, start)
	if err != nil {
		return statusError(err)
	}
	return call.SendAndClose(answer)
}

func (s *dataServer) importData(call importStream, start *phonehostv1.ImportDataStart) (*phonehostv1.ImportDataResponse, error) {
	q := phone.ImportRequest{
		ID: start.GetPhoneId(), SHA256: start.GetSha256(), RequestID: start.GetRequestId(), RequestedBy: caller(call.Context()),
	}
	// Before gigabytes are received in vain.
	earlier, volumeBytes, err := s.cfg.Phones.CheckImport(q)
	if err != nil {
		return nil, err
	}
	if earlier != nil {
		return &phonehostv1.ImportDataResponse{Operation: operationToProto(*earlier)}, nil
	}
	want := data.Announced{Bytes: start.GetSizeBytes(), SHA256: start.GetSha256(), VolumeBytes: volumeBytes}
	q.Archive, err = s.cfg.Spool.Receive(call.Context(), want, &chunks{next: func() ([]byte, error) {
		m, err := call.Recv()
		if err != nil {
			return nil, err
		}
		if m.GetStart() != nil {
			return nil, fault.Field("start", "is for the first message only")
		}
		return m.GetChunk(), nil
	}})
	if err != nil {
		return nil, err
	}
	op, begun, err := s.cfg.Phones.ImportData(q)
	if !begun {
		err = errors.Join(err, s.cfg.Spool.Remove(q.Archive.Name))
	}
	if err != nil {
		return nil, err
	}
	return &phonehostv1.ImportDataResponse{Operation: operationToProto(op), Manifest: manifestToProto(q.Archive.Manifest)}, nil
}

// trimsAtOnce is how many volumes one call trims at the same time: they are on one disk.
const trimsAtOnce = 4

func (s *dataServer) TrimData(ctx context.Context, q *phonehostv1.TrimDataRequest) (*phonehostv1.TrimDataResponse, error) {
	if err := operation.CheckIDs(q.GetPhoneIds(), phone.MaxPhones); err != nil {
		return nil, statusError(err)
	}
	answer := &phonehostv1.TrimDataResponse{Results: make([]*phonehostv1.TrimDataResult, len(q.GetPhoneIds()))}
	var trims errgroup.Group
	trims.SetLimit(trimsAtOnce)
	for i, id := range q.GetPhoneIds() {
		trims.Go(func() error {
			bytes, err := s.cfg.Phones.TrimData(ctx, id)
			answer.Results[i] = &phonehostv1.TrimDataResult{PhoneId: id, TrimmedBytes: bytes}
			if err != nil {
				answer.Results[i].Failure = failureToProto(job.Failure(0, err, time.Now()))
			}
			return nil
		})
	}
	if err := trims.Wait(); err != nil {
		return nil, statusError(err)
	}
	if err := ctx.Err(); err != nil {
		return nil, statusError(fmt.Errorf("trim: %w", err))
	}
	return answer, nil
}
