package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type pullCmd struct {
	ID   string `arg:"" help:"The phone."`
	Path string `arg:"" help:"Absolute path in the phone."`
	File string `arg:"" optional:"" help:"Where to; - writes to the standard output. Default: the file's name, here."`
	Max  size   `placeholder:"SIZE" help:"Refuse a larger file. Default: 8GiB."`
}

func (c *pullCmd) Run(ctx context.Context, a *app) error {
	files, err := a.files(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := files.PullFile(ctx, &phonehostv1.PullFileRequest{PhoneId: c.ID, Path: c.Path, MaxBytes: uint64(c.Max)})
	if err != nil {
		return err
	}
	bar := newTransfer(a.stderr, c.Path)
	defer bar.abandon()
	if c.File == "-" {
		_, err := receiveFile(stream, a.stdout, bar)
		if err == nil {
			bar.done()
		}
		return about(c.ID, err)
	}
	if c.File == "" {
		c.File = path.Base(c.Path)
	}
	info, err := c.save(stream, bar)
	if err != nil {
		return about(c.ID, err)
	}
	bar.done()
	return a.print(info, func(io.Writer) error {
		a.sayf("%s: %s", c.File, render.Bytes(info.GetSizeBytes()))
		return nil
	})
}

// save writes the file, which appears whole or not at all.
func (c *pullCmd) save(stream phonehostv1.FileService_PullFileClient, bar *transfer) (info *phonehostv1.PullFileInfo, err error) {
	if at, err := os.Stat(c.File); err == nil && at.IsDir() {
		c.File = filepath.Join(c.File, path.Base(c.Path))
	}
	temp, err := os.CreateTemp(filepath.Dir(c.File), "."+filepath.Base(c.File)+".*")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp.Name()))
		}
	}()
	info, err = receiveFile(stream, temp, bar)
	if err == nil {
		err = temp.Chmod(fs.FileMode(info.GetMode() & 0o777))
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return nil, err
	}
	return info, os.Rename(temp.Name(), c.File)
}

// receiveFile writes what comes to w and checks its digest.
func receiveFile(stream phonehostv1.FileService_PullFileClient, w io.Writer, bar *transfer) (info *phonehostv1.PullFileInfo, err error) {
	sum, received := hash.Hash(sha256.New()), uint64(0)
	for {
		m, err := stream.Recv()
		if err != nil {
			return info, ended(err)
		}
		switch v := m.GetMessage().(type) {
		case *phonehostv1.PullFileResponse_Info:
			info = v.Info
		case *phonehostv1.PullFileResponse_Chunk:
			sum.Write(v.Chunk)
			if _, err := w.Write(v.Chunk); err != nil {
				return info, err
			}
			received += uint64(len(v.Chunk))
			bar.at("receiving", received, info.GetSizeBytes())
		case *phonehostv1.PullFileResponse_Sha256:
			if !bytes.Equal(v.Sha256, sum.Sum(nil)) {
				return info, fmt.Errorf("what came has the SHA-256 %x, the phone's file has %x", sum.Sum(nil), v.Sha256)
			}
			return info, nil
		}
	}
}
