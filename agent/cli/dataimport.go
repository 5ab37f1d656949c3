package cli

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type dataImportCmd struct {
	ID   string `arg:"" help:"The phone, which is off."`
	File string `arg:"" help:"The archive; - reads the standard input."`
	waiting
}

// Help is the detailed help.
func (c *dataImportCmd) Help() string {
	return "The host verifies the whole archive before anything changes. Refused are a damaged one, the data of a phone with another profile or a newer " +
		"Android, and more than the volume holds. Until the new data is complete the phone keeps its own, whatever happens."
}

func (c *dataImportCmd) Run(ctx context.Context, a *app) error {
	archive, size, err := openInput(a, c.File)
	if err != nil {
		return err
	}
	defer archive.Close()
	start := &phonehostv1.ImportDataStart{PhoneId: c.ID, RequestId: c.RequestID, SizeBytes: size}
	if f, regular := archive.(*os.File); regular && size > 0 {
		if start.Sha256, err = digestOf(f); err != nil {
			return err
		}
	}
	data, err := a.data(ctx)
	if err != nil {
		return err
	}
	calling, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := data.ImportData(calling)
	if err != nil {
		return about(c.ID, err)
	}
	bar := newTransfer(a.stderr, c.File)
	defer bar.abandon()
	sending := &sending{bar: bar, size: size, send: func(chunk []byte) error {
		return stream.Send(&phonehostv1.ImportDataRequest{Message: &phonehostv1.ImportDataRequest_Chunk{Chunk: chunk}})
	}}
	// A start that is refused tells why with the call's answer.
	if stream.Send(&phonehostv1.ImportDataRequest{Message: &phonehostv1.ImportDataRequest_Start{Start: start}}) == nil {
		if err := sending.file(c.File, archive); err != nil {
			return err
		}
		if !sending.refused {
			bar.at("verifying", sending.sent, size)
		}
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return about(c.ID, err)
	}
	bar.done()
	if m := answer.GetManifest(); m != nil {
		a.sayf("%s: %s", c.File, render.Manifest(m))
	}
	return a.finish(ctx, answer.GetOperation(), c.waiting)
}

// digestOf reads a file once for its digest; it is rewound afterwards.
func digestOf(f *os.File) ([]byte, error) {
	hash := sha256.New()
	_, err := io.Copy(hash, f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return hash.Sum(nil), nil
}
