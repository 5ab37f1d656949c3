package api

import (
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/guestfile"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// NewFileServer returns the FileService over a copier.
func NewFileServer(files *guestfile.Copier) phonehostv1.FileServiceServer {
	return &fileServer{files: files}
}

type fileServer struct {
	phonehostv1.UnimplementedFileServiceServer
	files *guestfile.Copier
}

type pushStream = grpc.ClientStreamingServer[phonehostv1.PushFileRequest, phonehostv1.PushFileResponse]

func (s *fileServer) PushFile(call pushStream) error {
	first, err := call.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return statusError(err)
	}
	start := first.GetStart()
	if start == nil {
		return statusError(fault.Field("start", "must be what the first message carries"))
	}
	r := &chunks{next: func() ([]byte, error) {
		m, err := call.Recv()
		if err != nil {
			return nil, err
		}
		if m.GetStart() != nil {
			return nil, fault.Field("start", "is for the first message only")
		}
		return m.GetChunk(), nil
	}}
	sum, err := s.files.Push(call.Context(), start.GetPhoneId(), guestfile.File{
		Path: start.GetPath(), Size: start.GetSizeBytes(), SHA256: start.GetSha256(), Mode: start.GetMode(), UID: start.GetUid(), GID: start.GetGid(),
	}, r)
	if err != nil {
		return statusError(err)
	}
	return call.SendAndClose(&phonehostv1.PushFileResponse{SizeBytes: start.GetSizeBytes(), Sha256: sum})
}

// chunks is the reader of what comes in messages. next returns the next message's bytes, and io.EOF after the last.
type chunks struct {
	next func() ([]byte, error)
	rest []byte
}

// Read implements io.Reader.
func (c *chunks) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		b, err := c.next()
		if err != nil {
			return 0, err
		}
		if len(b) > maxChunk {
			return 0, fault.Field("chunk", "%d bytes are more than %d", len(b), maxChunk)
		}
		c.rest = b
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (s *fileServer) PullFile(q *phonehostv1.PullFileRequest, call grpc.ServerStreamingServer[phonehostv1.PullFileResponse]) error {
	sum, err := s.files.Pull(call.Context(), q.GetPhoneId(), q.GetPath(), q.GetMaxBytes(), pullSink{call})
	if err != nil {
		return statusError(err)
	}
	return call.Send(&phonehostv1.PullFileResponse{Message: &phonehostv1.PullFileResponse_Sha256{Sha256: sum}})
}

// pullSink sends what is read of a file.
type pullSink struct {
	call grpc.ServerStreamingServer[phonehostv1.PullFileResponse]
}

// Info implements guestfile.Sink.
func (s pullSink) Info(i guestfile.Info) error {
	return s.call.Send(&phonehostv1.PullFileResponse{Message: &phonehostv1.PullFileResponse_Info{Info: &phonehostv1.PullFileInfo{
		SizeBytes: i.Size, Mode: i.Mode, Uid: i.UID, Gid: i.GID, ModifyTime: timestamppb.New(i.ModTime),
	}}})
}

// Write implements guestfile.Sink.
func (s pullSink) Write(p []byte) (int, error) {
	return execWriter(func(b []byte) error {
		return s.call.Send(&phonehostv1.PullFileResponse{Message: &phonehostv1.PullFileResponse_Chunk{Chunk: b}})
	}).Write(p)
}
