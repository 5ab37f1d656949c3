package main

import (
	"context"
	"io"
	"os"

	"github.com/phonehost/phonehost/agent/imageapps"
	"github.com/phonehost/phonehost/runtime/image"
	"github.com/phonehost/phonehost/runtime/image/preinstalled"
)

// openImageApps makes what keeps the packages that came with the images.
func (a *agent) openImageApps() (err error) {
	a.imageApps, err = imageapps.Open(imageapps.Config{
		DB: a.db, Read: a.readImageApps, Images: a.images.Digests, Phones: a.phoneImages,
		Changed: func(digest string) { a.lists.ImageChanged(digest) }, Logger: a.logger,
	})
	return err
}

// readImageApps reads the packages of an image from its files.
func (a *agent) readImageApps(ctx context.Context, digest string) (found preinstalled.Packages, err error) {
	err = a.images.Files(ctx, digest, func(root *os.File) (err error) {
		unpack := preinstalled.Spool{Dir: a.cfg.StateDir, Room: a.phones.CheckDisk}
		found, err = preinstalled.Read(ctx, root, unpack, a.logger.With("image_digest", digest))
		return err
	})
	return found, err
}

// phoneImages are the digests of the images that phones are made from.
func (a *agent) phoneImages() []string {
	var digests []string
	for _, snap := range a.phones.List() {
		digests = append(digests, snap.Record.ImageDigest)
	}
	return digests
}

// toldImages is the image store that tells, of its changes, who keeps the images' packages.
type toldImages struct {
	*image.Store
	apps *imageapps.Keeper
}

// Pull is image.Store's.
func (s toldImages) Pull(ctx context.Context, ref string, progress func(image.Progress)) (image.Image, error) {
	defer s.apps.ImagesChanged()
	return s.Store.Pull(ctx, ref, progress)
}

// Import is image.Store's.
func (s toldImages) Import(ctx context.Context, name string, archive io.Reader) (image.Image, error) {
	defer s.apps.ImagesChanged()
	return s.Store.Import(ctx, name, archive)
}

// ImportWaydroid is image.Store's.
func (s toldImages) ImportWaydroid(ctx context.Context, name string, w image.Waydroid) (image.Image, error) {
	defer s.apps.ImagesChanged()
	return s.Store.ImportWaydroid(ctx, name, w)
}

// Remove is image.Store's.
func (s toldImages) Remove(ctx context.Context, ref string) error {
	defer s.apps.ImagesChanged()
	return s.Store.Remove(ctx, ref)
}
