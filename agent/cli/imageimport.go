package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type imageImportCmd struct {
	Files    []string `arg:"" name:"file" help:"OCI archive (tar, also gzip or zstd compressed); - reads the standard input. With --waydroid: system.img and vendor.img."`
	Name     string   `placeholder:"NAME" help:"Name to give the image. Default: the one that the archive carries; Waydroid's images carry none."`
	Waydroid bool     `help:"The files are Waydroid's system.img and vendor.img: ext4, raw or sparse."`
}

func (c *imageImportCmd) Run(ctx context.Context, a *app) error {
	switch {
	case !c.Waydroid && len(c.Files) != 1:
		return usagef("one archive at a time; Waydroid's two images need --waydroid")
	case c.Waydroid && len(c.Files) != 2:
		return usagef("--waydroid takes two files: `phonectl image import --waydroid system.img vendor.img --name NAME`")
	case c.Waydroid && c.Name == "":
		return usagef("--waydroid needs --name NAME: Waydroid's images carry no name")
	}
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.Waydroid {
		return c.waydroid(ctx, a, images)
	}
	return c.archive(ctx, a, images)
}

// archive imports an OCI archive.
func (c *imageImportCmd) archive(ctx context.Context, a *app, images phonehostv1.ImageServiceClient) error {
	archive, size, err := openInput(a, c.Files[0])
	if err != nil {
		return err
	}
	defer archive.Close()
	stream, err := images.ImportImage(ctx)
	if err != nil {
		return err
	}
	bar := newTransfer(a.stderr, c.Files[0])
	defer bar.abandon()
	name := c.Name
	sending := &sending{bar: bar, size: size, send: func(chunk []byte) error {
		request := &phonehostv1.ImportImageRequest{Name: name, Chunk: chunk}
		name = ""
		return stream.Send(request)
	}}
	if err := sending.file(c.Files[0], archive); err != nil {
		return err
	}
	sending.unpacking()
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return about(c.Files[0], err)
	}
	bar.done()
	return a.imageArrived(answer.GetImage())
}

// waydroid imports Waydroid's two images.
func (c *imageImportCmd) waydroid(ctx context.Context, a *app, images phonehostv1.ImageServiceClient) error {
	var files []io.ReadCloser
	var total uint64
	for _, name := range c.Files {
		file, size, err := openInput(a, name)
		if err != nil {
			return err
		}
		defer file.Close()
		files, total = append(files, file), total+size
	}
	stream, err := images.ImportWaydroid(ctx)
	if err != nil {
		return err
	}
	what := filepath.Base(c.Files[0]) + " and " + filepath.Base(c.Files[1])
	bar := newTransfer(a.stderr, what)
	defer bar.abandon()
	name, part := c.Name, phonehostv1.WaydroidPart_WAYDROID_PART_SYSTEM
	sending := &sending{bar: bar, size: total, send: func(chunk []byte) error {
		request := &phonehostv1.ImportWaydroidRequest{Name: name, Part: part, Chunk: chunk}
		name = ""
		return stream.Send(request)
	}}
	for i, file := range files {
		if err := sending.file(c.Files[i], file); err != nil {
			return err
		}
		part = phonehostv1.WaydroidPart_WAYDROID_PART_VENDOR
	}
	sending.unpacking()
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return about(what, err)
	}
	bar.done()
	return a.imageArrived(answer.GetImage())
}

// sending is files on their way to the agent, by send, in chunks. Once the agent has refused them nothing is sent any more; why comes
// with the call's answer.
type sending struct {
	bar     *transfer
	size    uint64 // of all files; 0 where it is not known
	send    func(chunk []byte) error
	sent    uint64
	refused bool
}

// file sends a file to its end, with at least one chunk, which may be empty. The error is one of reading.
func (s *sending) file(name string, r io.Reader) error {
	buf := make([]byte, 64<<10)
	for !s.refused {
		n, err := io.ReadFull(r, buf)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if s.send(buf[:n]) != nil {
			s.refused = true
			return nil
		}
		s.sent += uint64(n)
		s.bar.at("sending", s.sent, s.size)
		if last {
			return nil
		}
	}
	return nil
}

// unpacking says that all has been sent.
func (s *sending) unpacking() {
	if !s.refused {
		s.bar.at("unpacking", s.sent, s.size)
	}
}

// openInput opens a file, or the standard input for "-"; size is 0 where it is not known.
func openInput(a *app, name string) (file io.ReadCloser, size uint64, err error) {
	if name == "-" {
		if _, tty := terminal(a.stdin); tty {
			return nil, 0, usagef("the standard input is a terminal: name a file, or `phonectl ... - < FILE`")
		}
		return io.NopCloser(a.stdin), 0, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, uint64(info.Size()), nil
}
