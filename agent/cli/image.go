package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type imageCmd struct {
	Pull   imagePullCmd   `cmd:"" help:"Fetch an image from a registry."`
	Import imageImportCmd `cmd:"" help:"Import an OCI archive from a file or the standard input, or Waydroid's two images."`
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
