package api

import (
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/phonehost/phonehost/agent/fault"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/image"
)

type importWaydroidCall = grpc.ClientStreamingServer[phonehostv1.ImportWaydroidRequest, phonehostv1.ImportWaydroidResponse]

func (s *imageServer) ImportWaydroid(call importWaydroidCall) error {
	first, err := call.Recv()
	if errors.Is(err, io.EOF) {
		return statusError(fault.Field("chunk", "the call ended before its first message"))
	}
	if err != nil {
		return statusError(err)
	}
	if first.GetName() == "" {
		return statusError(fault.Field("name", "is empty: an image made from Waydroid's carries no name of its own"))
	}
	if err := s.checkDisk(); err != nil {
		return statusError(err)
	}
	parts := &partReader{call: call}
	if err := parts.take(first); err != nil {
		return statusError(err)
	}
	img, err := s.cfg.Store.ImportWaydroid(call.Context(), first.GetName(), image.Waydroid{
		System: parts.of(phonehostv1.WaydroidPart_WAYDROID_PART_SYSTEM),
		Vendor: parts.of(phonehostv1.WaydroidPart_WAYDROID_PART_VENDOR),
		Dir:    s.cfg.SpoolDir, Room: s.checkDisk,
	})
	if parts.err != nil {
		return statusError(parts.err) // what the caller did wrong, before what that did to the images
	}
	if err != nil {
		return statusError(err)
	}
	return call.SendAndClose(&phonehostv1.ImportWaydroidResponse{Image: s.toProto(img)})
}

// partReader reads two files out of the messages of one call, one after the other. One goroutine reads it.
type partReader struct {
	call importWaydroidCall
	part phonehostv1.WaydroidPart // of the present message
	rest []byte
	err  error // of the call; not io.EOF
	over bool  // no message comes any more
}

// take makes a message the present one.
func (r *partReader) take(q *phonehostv1.ImportWaydroidRequest) (err error) {
	switch part := q.GetPart(); {
	case part != phonehostv1.WaydroidPart_WAYDROID_PART_SYSTEM && part != phonehostv1.WaydroidPart_WAYDROID_PART_VENDOR:
		return fault.Field("part", "%d is neither system nor vendor", part)
	case part < r.part:
		return fault.Field("part", "the system's image goes on after the vendor's has begun")
	default:
		r.part = part
	}
	r.rest, err = checkChunk(q)
	return err
}

// next takes the next message.
func (r *partReader) next() {
	q, err := r.call.Recv()
	if errors.Is(err, io.EOF) {
		r.over = true
		return
	}
	if err == nil && q.GetName() != "" {
		err = fault.Field("name", "is for the first message only")
	}
	if err == nil {
		err = r.take(q)
	}
	r.err = err
}

// of returns the reader of one part, which ends where another part begins.
func (r *partReader) of(part phonehostv1.WaydroidPart) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		for len(r.rest) == 0 && r.part <= part && !r.over && r.err == nil {
			r.next()
		}
		if r.err != nil {
			return 0, r.err
		}
		if r.part != part || len(r.rest) == 0 {
			return 0, io.EOF
		}
		n := copy(p, r.rest)
		r.rest = r.rest[n:]
		return n, nil
	})
}

// readerFunc is a reader that is a function.
type readerFunc func(p []byte) (int, error)

// Read calls the function.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
