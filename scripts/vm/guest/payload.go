package guest

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// payloadDir is where the payload is unpacked.
const payloadDir = "/run/payload"

// unpackPayload replaces what is at payloadDir by the payload drive's tar file. A drive of zeros is an empty tar file.
func unpackPayload(ctx context.Context) error {
	device, err := waitDrive(ctx, "payload")
	if err != nil {
		return err
	}
	f, err := os.Open(device)
	if err != nil {
		return fmt.Errorf("unpack the payload: %w", err)
	}
	defer f.Close()
	// What the kernel has of an earlier payload is not what a resumed machine's drive holds.
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("forget the payload drive's old content: %w", err)
	}
	if err := os.RemoveAll(payloadDir); err != nil {
		return fmt.Errorf("remove the old payload: %w", err)
	}
	if err := os.MkdirAll(payloadDir, 0o755); err != nil {
		return fmt.Errorf("unpack the payload: %w", err)
	}
	dir, err := os.OpenRoot(payloadDir)
	if err != nil {
		return fmt.Errorf("unpack the payload: %w", err)
	}
	defer dir.Close()
	if err := untar(ctx, dir, bufio.NewReaderSize(f, 1<<20)); err != nil {
		return fmt.Errorf("unpack the payload: %w", err)
	}
	return nil
}

// untar unpacks directories, regular files, and links within the directory, with their permissions, owned by root.
func untar(ctx context.Context, dir *os.Root, r io.Reader) error {
	for archive := tar.NewReader(r); ctx.Err() == nil; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read tar file: %w", err)
		}
		if err := untarEntry(dir, h, archive); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	return context.Cause(ctx)
}

func untarEntry(dir *os.Root, h *tar.Header, r io.Reader) error {
	name, mode := path.Clean(h.Name), h.FileInfo().Mode().Perm()
	if parent := path.Dir(name); parent != "." && parent != "/" {
		if err := dir.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := dir.MkdirAll(name, mode); err != nil {
			return err
		}
		return dir.Chmod(name, mode) // whatever the umask, or what made it
	case tar.TypeSymlink:
		return dir.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return dir.Link(h.Linkname, name)
	case tar.TypeReg:
		f, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
		if err != nil {
			return err
		}
		if _, err = io.Copy(f, r); err == nil {
			err = f.Chmod(mode)
		}
		return closed(f, err)
	}
	return fmt.Errorf("entry of type %q, want a directory, a file or a link", h.Typeflag)
}
