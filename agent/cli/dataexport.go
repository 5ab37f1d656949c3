package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type dataExportCmd struct {
	ID   string `arg:"" help:"The phone, which is off."`
	File string `short:"f" required:"" placeholder:"FILE" help:"Where to, such as p1.tar.zst; - writes to the standard output."`
}

// Help is the detailed help.
func (c *dataExportCmd) Help() string {
	return "The archive holds files, not a file system: tar and zstd, which `tar --zstd` reads too. The file appears when all of it has come and its " +
		"SHA-256 is right. Until then the phone is not started, reset or deleted."
}

func (c *dataExportCmd) Run(ctx context.Context, a *app) error {
	if err := refuseTerminal(a, c.File); err != nil {
		return err
	}
	data, err := a.data(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := data.ExportData(ctx, &phonehostv1.ExportDataRequest{PhoneId: c.ID})
	if err != nil {
		return about(c.ID, err)
	}
	bar := newTransfer(a.stderr, c.ID)
	defer bar.abandon()
	var got exported
	if c.File == "-" {
		got, err = receiveArchive(stream, a.stdout, bar)
	} else {
		got, err = saveArchive(stream, c.File, bar)
	}
	if err != nil {
		return about(c.ID, err)
	}
	bar.done()
	where := c.File
	if where == "-" {
		where = "standard output"
	}
	summary := func(io.Writer) error {
		a.sayf("%s: %s", c.ID, render.Manifest(got.manifest))
		a.sayf("%s: %s, sha256 %x", where, render.Bytes(got.end.GetSizeBytes()), got.end.GetSha256())
		return nil
	}
	if c.File == "-" {
		return summary(nil) // the standard output is the archive's
	}
	return a.print(got.manifest, summary)
}

// exported is an archive that has come.
type exported struct {
	manifest *phonehostv1.DataManifest
	end      *phonehostv1.ExportDataEnd
}

// saveArchive writes an archive to a file, which appears whole or not at all.
func saveArchive(stream phonehostv1.DataService_ExportDataClient, name string, bar *transfer) (got exported, err error) {
	temp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return got, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp.Name()))
		}
	}()
	got, err = receiveArchive(stream, temp, bar)
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return got, err
	}
	return got, os.Rename(temp.Name(), name)
}

// receiveArchive writes what comes to w and checks its size and digest.
func receiveArchive(stream phonehostv1.DataService_ExportDataClient, w io.Writer, bar *transfer) (got exported, err error) {
	sum, size := sha256.New(), uint64(0)
	for {
		m, err := stream.Recv()
		if err != nil {
			return got, ended(err)
		}
		switch v := m.GetMessage().(type) {
		case *phonehostv1.ExportDataResponse_Manifest:
			got.manifest = v.Manifest
		case *phonehostv1.ExportDataResponse_Chunk:
			sum.Write(v.Chunk.GetData())
			size += uint64(len(v.Chunk.GetData()))
			if _, err := w.Write(v.Chunk.GetData()); err != nil {
				return got, err
			}
			bar.at("exporting", v.Chunk.GetContentBytes(), got.manifest.GetContentBytes())
		case *phonehostv1.ExportDataResponse_End:
			if got.end = v.End; size != v.End.GetSizeBytes() || !bytes.Equal(v.End.GetSha256(), sum.Sum(nil)) {
				return got, fmt.Errorf("what came has %d bytes and the SHA-256 %x, the agent sent %d and %x", size, sum.Sum(nil), v.End.GetSizeBytes(), v.End.GetSha256())
			}
			return got, nil
		}
	}
}
