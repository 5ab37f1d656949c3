package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type imageCmd struct {
	Pull   imagePullCmd   `cmd:"" help:"Fetch an image from a registry."`
	Import imageImportCmd `cmd:"" help:"Import an OCI archive from a file or the standard input."`
	Ls     imageLsCmd     `cmd:"" help:"List the host's images."`
	Rm     imageRmCmd     `cmd:"" help:"Remove images that no phone names."`
}

type imagePullCmd struct {
	Name string `arg:"" help:"Reference with the registry's host, such as registry.example/phones/testphone:1."`
}

func (c *imagePullCmd) Run(ctx context.Context, a *app) error {
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	stream, err := images.PullImage(ctx, &phonehostv1.PullImageRequest{Name: c.Name})
	if err != nil {
		return about(c.Name, err)
	}
	bar := newTransfer(a.stderr, c.Name)
	defer bar.abandon()
	for {
		answer, err := stream.Recv()
		if err != nil {
			return about(c.Name, ended(err))
		}
		if image := answer.GetImage(); image != nil {
			bar.done()
			return a.imageArrived(image)
		}
		bar.at(answer.GetProgress(), answer.GetFetchedBytes(), answer.GetTotalBytes())
	}
}

// imageArrived prints an image that the host did not have before.
func (a *app) imageArrived(image *phonehostv1.Image) error {
	return a.print(image, func(w io.Writer) error {
		a.sayf("%s: %s, %s", image.GetName(), image.GetDigest(), render.Bytes(image.GetSizeBytes()))
		_, err := fmt.Fprintln(w, render.Printable(image.GetName()))
		return err
	})
}

type imageImportCmd struct {
	File string `arg:"" help:"OCI archive (tar, also gzip or zstd compressed); - reads the standard input."`
	Name string `placeholder:"NAME" help:"Name to give the image. Default: the one that the archive carries."`
}

func (c *imageImportCmd) Run(ctx context.Context, a *app) error {
	archive, size, err := c.open(a)
	if err != nil {
		return err
	}
	defer archive.Close()
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := images.ImportImage(ctx)
	if err != nil {
		return err
	}
	bar := newTransfer(a.stderr, c.File)
	defer bar.abandon()
	if err := c.send(stream, archive, size, bar); err != nil {
		return err
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return about(c.File, err)
	}
	bar.done()
	return a.imageArrived(answer.GetImage())
}

// send sends the archive. When the agent refuses it midway, nil is returned and why comes out of CloseAndRecv.
func (c *imageImportCmd) send(stream phonehostv1.ImageService_ImportImageClient, archive io.Reader, size uint64, bar *transfer) error {
	buf := make([]byte, 64<<10)
	request := &phonehostv1.ImportImageRequest{Name: c.Name}
	for sent := uint64(0); ; {
		n, err := io.ReadFull(archive, buf)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return fmt.Errorf("read %s: %w", c.File, err)
		}
		request.Chunk = buf[:n]
		if stream.Send(request) != nil {
			return nil
		}
		request = &phonehostv1.ImportImageRequest{}
		sent += uint64(n)
		bar.at("sending", sent, size)
		if last {
			bar.at("unpacking", sent, size)
			return nil
		}
	}
}

// open opens the archive; size is 0 where it is not known.
func (c *imageImportCmd) open(a *app) (archive io.ReadCloser, size uint64, err error) {
	if c.File == "-" {
		if _, tty := terminal(a.stdin); tty {
			return nil, 0, usagef("the standard input is a terminal: `phonectl image import - < FILE`")
		}
		return io.NopCloser(a.stdin), 0, nil
	}
	f, err := os.Open(c.File)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, uint64(info.Size()), nil
}

type imageLsCmd struct{}

func (c *imageLsCmd) Run(ctx context.Context, a *app) error {
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	answer, err := images.ListImages(ctx, &phonehostv1.ListImagesRequest{})
	if err != nil {
		return err
	}
	return a.print(answer, func(w io.Writer) error {
		if len(answer.GetImages()) == 0 {
			a.sayf("no images yet: `phonectl image import FILE` or `phonectl image pull NAME`")
			return nil
		}
		return render.Images(w, answer.GetImages(), a.now())
	})
}

type imageRmCmd struct {
	Names []string `arg:"" name:"name" help:"References of the images."`
}

func (c *imageRmCmd) Run(ctx context.Context, a *app) error {
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	for _, name := range c.Names {
		if _, err := images.RemoveImage(ctx, &phonehostv1.RemoveImageRequest{Name: name}); err != nil {
			return about(name, err)
		}
		a.sayf("%s: removed", name)
	}
	return nil
}
