package soak

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// pushedPath is the file that is pushed, and pushedBytes its size.
	pushedPath  = "/data/pushed"
	pushedBytes = 3 << 20
)

// fileActions are copies into running phones. They are no operations: a retry sends the file again. Half a file is never there.
func fileActions() []action {
	return []action{{
		name: "push_file", from: running, to: running, prepare: haveFile, check: checkPushed, always: alwaysWhole,
		ask: func(ctx context.Context, c call) (*phonehostv1.Operation, error) { return nil, c.push(ctx, c.request) },
	}}
}

// content is what is pushed under a name.
func content(name string) []byte {
	data := make([]byte, pushedBytes)
	rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(data) // never an error
	return data
}

// former is the name of what the file held before an action.
func (c call) former() string { return "before " + c.request }

// haveFile pushes the file that the action replaces.
func haveFile(ctx context.Context, c call) error { return c.push(ctx, c.former()) }

func (c call) push(ctx context.Context, name string) error {
	data := content(name)
	sum := sha256.Sum256(data)
	stream, err := phonehostv1.NewFileServiceClient(c.h.api.Media()).PushFile(ctx)
	if err != nil {
		return err
	}
	err = stream.Send(&phonehostv1.PushFileRequest{Message: &phonehostv1.PushFileRequest_Start{Start: &phonehostv1.PushFileStart{
		PhoneId: c.id, Path: pushedPath, SizeBytes: pushedBytes, Sha256: sum[:],
	}}})
	for len(data) > 0 && err == nil {
		n := min(len(data), 64<<10)
		err = stream.Send(&phonehostv1.PushFileRequest{Message: &phonehostv1.PushFileRequest_Chunk{Chunk: data[:n]}})
		data = data[n:]
	}
	_, err = stream.CloseAndRecv() // tells why a send did not succeed
	return err
}

// pulled returns the digest of the file in the guest; nil if there is none.
func (c call) pulled(ctx context.Context) ([]byte, error) {
	stream, err := phonehostv1.NewFileServiceClient(c.h.api.Media()).PullFile(ctx, &phonehostv1.PullFileRequest{PhoneId: c.id, Path: pushedPath})
	if err != nil {
		return nil, err
	}
	hash := sha256.New()
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return hash.Sum(nil), nil
		case status.Code(err) == codes.NotFound:
			return nil, nil
		case err != nil:
			return nil, err
		}
		hash.Write(m.GetChunk())
	}
}

// checkPushed looks for the new file, and for what is beside it: what an agent that was killed had begun goes away when the next one ends
// what it has left in the guest.
func checkPushed(ctx context.Context, c call, _ *phonehostv1.Operation) error {
	got, err := c.pulled(ctx)
	if want := sha256.Sum256(content(c.request)); err == nil && !bytes.Equal(got, want[:]) {
		err = fmt.Errorf("%s has digest %x, want %x", pushedPath, got, want)
	}
	if err != nil {
		return err
	}
	// The pattern does not match itself.
	const look = "ls /data; grep -l 'pushed.phonehost[-]' /proc/[0-9]*/cmdline 2>/dev/null || true"
	return c.soon(ctx, look, "nothing is beside "+pushedPath+", and no process writes it", func(out string) bool {
		return !strings.Contains(out, ".phonehost-") && !strings.Contains(out, "/cmdline")
	})
}

// alwaysWhole sees to it that the file is the former one or the new one.
func alwaysWhole(ctx context.Context, c call, _ *phonehostv1.Operation) error {
	p, err := c.phone(ctx)
	if err != nil || !running.is(p) {
		return err // off: nobody can look, and the next start finds what is there
	}
	got, err := c.pulled(ctx)
	if err != nil {
		return err
	}
	for _, name := range []string{c.former(), c.request} {
		if want := sha256.Sum256(content(name)); bytes.Equal(got, want[:]) {
			return nil
		}
	}
	return fmt.Errorf("%s has digest %x, which is neither that of the former nor that of the new file", pushedPath, got)
}
