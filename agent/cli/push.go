package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type pushCmd struct {
	File string `arg:"" help:"The file to copy."`
	ID   string `arg:"" help:"The phone."`
	Path string `arg:"" help:"Absolute path in the phone."`
	Mode string `placeholder:"MODE" help:"Permission bits in octal. Default: those of the file."`
	UID  uint32 `placeholder:"UID" help:"Owner in the phone. Default: 0, root."`
	GID  uint32 `placeholder:"GID" help:"Group in the phone. Default: 0."`
}

// Help is the detailed help.
func (c *pushCmd) Help() string {
	return "The file appears in the phone whole or not at all, and its SHA-256 is checked there and back."
}

func (c *pushCmd) Run(ctx context.Context, a *app) error {
	f, err := os.Open(c.File)
	if err != nil {
		return err
	}
	defer f.Close()
	start, err := c.describe(f)
	if err != nil {
		return err
	}
	files, err := a.files(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := files.PushFile(ctx)
	if err != nil {
		return err
	}
	bar := newTransfer(a.stderr, c.File)
	defer bar.abandon()
	if err := sendFile(stream, start, f, bar); err != nil {
		return err
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return about(c.ID, err)
	}
	if !bytes.Equal(answer.GetSha256(), start.GetSha256()) {
		return fmt.Errorf("%s: the phone's copy has the SHA-256 %x, the file has %x", c.ID, answer.GetSha256(), start.GetSha256())
	}
	bar.done()
	return a.print(answer, func(io.Writer) error {
		a.sayf("%s: %s, %s", c.ID, render.Printable(c.Path), render.Bytes(answer.GetSizeBytes()))
		return nil
	})
}

// describe reads the file once for its digest; it is rewound afterwards.
func (c *pushCmd) describe(f *os.File) (*phonehostv1.PushFileStart, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, usagef("%s is not a regular file: to copy a directory, `tar -c -C DIR . | phonectl exec %s -- tar -x -C %s`", c.File, c.ID, c.Path)
	}
	mode := uint64(info.Mode().Perm())
	if c.Mode != "" {
		if mode, err = strconv.ParseUint(c.Mode, 8, 32); err != nil || mode == 0 || mode > 0o777 {
			return nil, usagef("--mode %s must be octal, 1..777", c.Mode)
		}
	}
	hash := sha256.New()
	size, err := io.Copy(hash, f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.File, err)
	}
	return &phonehostv1.PushFileStart{
		PhoneId: c.ID, Path: c.Path, SizeBytes: uint64(size), Sha256: hash.Sum(nil), Mode: uint32(mode), Uid: c.UID, Gid: c.GID,
	}, nil
}

// sendFile sends a file. When the agent refuses it midway, nil is returned and why comes out of CloseAndRecv.
func sendFile(stream phonehostv1.FileService_PushFileClient, start *phonehostv1.PushFileStart, r io.Reader, bar *transfer) error {
	request := &phonehostv1.PushFileRequest{Message: &phonehostv1.PushFileRequest_Start{Start: start}}
	buf := make([]byte, chunkBytes)
	for sent := uint64(0); stream.Send(request) == nil; {
		n, err := r.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the file: %w", err)
		}
		request = &phonehostv1.PushFileRequest{Message: &phonehostv1.PushFileRequest_Chunk{Chunk: buf[:n]}}
		sent += uint64(n)
		bar.at("sending", sent, start.GetSizeBytes())
	}
	return nil
}

// chunkBytes is how much of a file one message carries.
const chunkBytes = 64 << 10
