package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/volume/archive"
)

// dataActions are the actions on data volumes.
func dataActions() []action {
	return []action{
		{name: "import_data", from: off, to: off, resets: 1, ask: askImportData, check: checkImported},
		{name: "export_data", from: off, to: off, ask: func(ctx context.Context, c call) (*phonehostv1.Operation, error) {
			_, err := c.export(ctx)
			return nil, err
		}},
	}
}

// importedBytes is how much content the archive has that is imported; no other data has just as much.
const importedBytes = 1<<20 + 4321

// importedArchive is an archive of a phone's data, made once, so that every try sends the same.
var importedArchive = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "phs-data-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "imported"), bytes.Repeat([]byte("s"), importedBytes), 0o600); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var b bytes.Buffer
	_, err = archive.Export(context.Background(), root, archive.Manifest{Phone: "soak", Profile: "testphone"}, &b)
	return b.Bytes(), err
})

// askImportData replaces the phone's data.
func askImportData(ctx context.Context, c call) (*phonehostv1.Operation, error) {
	data, err := importedArchive()
	if err != nil {
		return nil, err
	}
	stream, err := phonehostv1.NewDataServiceClient(c.h.api.Media()).ImportData(ctx)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&phonehostv1.ImportDataRequest{Message: &phonehostv1.ImportDataRequest_Start{Start: &phonehostv1.ImportDataStart{
		PhoneId: c.id, RequestId: c.request, SizeBytes: uint64(len(data)),
	}}})
	for len(data) > 0 && err == nil {
		n := min(len(data), 64<<10)
		err = stream.Send(&phonehostv1.ImportDataRequest{Message: &phonehostv1.ImportDataRequest_Chunk{Chunk: data[:n]}})
		data = data[n:]
	}
	return of(stream.CloseAndRecv()) // tells why a send did not succeed
}

// checkImported sees to it that the phone's data is the archive's, whole.
func checkImported(ctx context.Context, c call, _ *phonehostv1.Operation) error {
	m, err := c.export(ctx)
	if err == nil && m.Bytes != importedBytes {
		err = fmt.Errorf("the phone's data has %d bytes in %d files, want those %d that were imported", m.Bytes, m.Entries, importedBytes)
	}
	return err
}

// export receives an archive of the phone's data and verifies it.
func (c call) export(ctx context.Context) (archive.Manifest, error) {
	stream, err := phonehostv1.NewDataServiceClient(c.h.api.Media()).ExportData(ctx, &phonehostv1.ExportDataRequest{PhoneId: c.id})
	if err != nil {
		return archive.Manifest{}, err
	}
	var b bytes.Buffer
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return archive.Verify(ctx, &b)
		}
		if err != nil {
			return archive.Manifest{}, err
		}
		b.Write(m.GetChunk().GetData())
	}
}
