package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/phonehost/phonehost/agent/data"
	"github.com/phonehost/phonehost/agent/fault"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// fakeData is the agent's DataService. An archive begins with "archive of "; phones whose id begins with "torn" send one whose digest is
// wrong, and those that begin with "cut" end in the middle.
type fakeData struct {
	phonehostv1.UnimplementedDataServiceServer
	agent *fakeAgent
}

func (f fakeData) ListData(_ context.Context, in *phonehostv1.ListDataRequest) (*phonehostv1.ListDataResponse, error) {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	phones, err := f.agent.list(in.GetPhoneIds())
	if err != nil {
		return nil, err
	}
	answer := &phonehostv1.ListDataResponse{Space: &phonehostv1.DataSpace{HostBytes: 8 << 30, HostFreeBytes: 4 << 30}}
	for _, p := range phones {
		if p.GetStatus() == phonehostv1.PhoneStatus_PHONE_STATUS_STOPPED {
			continue // never started
		}
		size := p.GetSpec().GetDataBytes()
		answer.Volumes = append(answer.Volumes, &phonehostv1.DataVolume{
			PhoneId: p.GetSpec().GetId(), Generation: p.GetDataGeneration(), SizeBytes: size, AllocatedBytes: 64 << 20, CapacityBytes: size - 32<<20,
			FreeBytes: size - 48<<20, Files: 1000, FreeFiles: 988, Live: running(p),
		})
		answer.Space.Volumes++
		answer.Space.PromisedBytes += size
		answer.Space.AllocatedBytes += 64 << 20
		answer.Space.Overcommit = float64(answer.Space.PromisedBytes) / float64(answer.Space.AllocatedBytes+answer.Space.HostFreeBytes)
	}
	return answer, nil
}

func (f fakeData) TrimData(_ context.Context, in *phonehostv1.TrimDataRequest) (*phonehostv1.TrimDataResponse, error) {
	answer := new(phonehostv1.TrimDataResponse)
	for _, id := range in.GetPhoneIds() {
		r := &phonehostv1.TrimDataResult{PhoneId: id, TrimmedBytes: 12 << 20}
		if f.agent.phone(id) == nil {
			r = &phonehostv1.TrimDataResult{PhoneId: id, Failure: &phonehostv1.Failure{Code: int32(codes.NotFound), Reason: fault.NoSuchPhone, Message: "no phone \"" + id + "\" on this host"}}
		}
		answer.Results = append(answer.Results, r)
	}
	return answer, nil
}

// phone returns a phone, nil for none.
func (f *fakeAgent) phone(id string) *phonehostv1.Phone {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.phones[id]
}

// off returns a phone that is off, or the refusal.
func (f fakeData) off(id string) (*phonehostv1.Phone, error) {
	p := f.agent.phone(id)
	switch {
	case p == nil:
		return nil, noPhone(id)
	case running(p):
		return nil, refuse(codes.FailedPrecondition, fault.NotOff, nil, "phone %s is 2 RUNNING: power it off first", id)
	}
	return p, nil
}

func manifestOf(p *phonehostv1.Phone) *phonehostv1.DataManifest {
	return &phonehostv1.DataManifest{
		PhoneId: p.GetSpec().GetId(), Profile: "testphone", AndroidVersion: "13", VolumeBytes: p.GetSpec().GetDataBytes(), Format: 1,
		CreateTime: timestamppb.New(base), Entries: 12, ContentBytes: 4096, LeftOut: 1,
	}
}

func (f fakeData) ExportData(in *phonehostv1.ExportDataRequest, stream grpc.ServerStreamingServer[phonehostv1.ExportDataResponse]) error {
	p, err := f.off(in.GetPhoneId())
	if err != nil {
		return err
	}
	if err := stream.Send(&phonehostv1.ExportDataResponse{Message: &phonehostv1.ExportDataResponse_Manifest{Manifest: manifestOf(p)}}); err != nil {
		return err
	}
	hash := sha256.New()
	size := uint64(0)
	for i, part := range []string{"archive of ", in.GetPhoneId(), "\n"} {
		hash.Write([]byte(part))
		size += uint64(len(part))
		chunk := &phonehostv1.ExportDataChunk{Data: []byte(part), ContentBytes: uint64(i+1) * 1365}
		if err := stream.Send(&phonehostv1.ExportDataResponse{Message: &phonehostv1.ExportDataResponse_Chunk{Chunk: chunk}}); err != nil {
			return err
		}
	}
	switch {
	case strings.HasPrefix(in.GetPhoneId(), "cut"):
		return status.Error(codes.DataLoss, "the file system is beyond repair")
	case strings.HasPrefix(in.GetPhoneId(), "torn"):
		hash.Write([]byte("and more"))
	}
	return stream.Send(&phonehostv1.ExportDataResponse{Message: &phonehostv1.ExportDataResponse_End{End: &phonehostv1.ExportDataEnd{SizeBytes: size, Sha256: hash.Sum(nil)}}})
}

func (f fakeData) ImportData(stream grpc.ClientStreamingServer[phonehostv1.ImportDataRequest, phonehostv1.ImportDataResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	p, err := f.off(start.GetPhoneId())
	if err != nil {
		return err
	}
	var archive []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		archive = append(archive, m.GetChunk()...)
	}
	sum := sha256.Sum256(archive)
	switch {
	case !strings.HasPrefix(string(archive), "archive of "):
		return refuse(codes.DataLoss, data.Damaged, nil, "the archive is damaged or cut short: unexpected EOF")
	case start.GetSizeBytes() > 0 && (start.GetSizeBytes() != uint64(len(archive)) || string(start.GetSha256()) != string(sum[:])):
		return refuse(codes.DataLoss, data.DigestMismatch, nil, "%d bytes with the SHA-256 %x came, %d with %x were announced", len(archive), sum, start.GetSizeBytes(), start.GetSha256())
	}
	op, err := f.agent.begin(phonehostv1.OperationKind_OPERATION_KIND_IMPORT_DATA, []string{start.GetPhoneId()}, start.GetRequestId(),
		func(*phonehostv1.Phone) error { return nil }, func(p *phonehostv1.Phone) { p.DataGeneration++ })
	if err != nil {
		return err
	}
	return stream.SendAndClose(&phonehostv1.ImportDataResponse{Operation: op, Manifest: manifestOf(p)})
}
