package data

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/spool"
	"github.com/phonehost/phonehost/runtime/crashpoint"
	"github.com/phonehost/phonehost/runtime/volume/archive"
)

// Spool keeps archives as files of a directory.
type Spool struct{ dir *spool.Dir }

// NewSpool returns the spool in dir. free returns the free bytes of its disk, of which reserve stay free.
func NewSpool(dir string, free func() (uint64, error), reserve uint64) (*Spool, error) {
	d, err := spool.Open(dir, free, reserve)
	return &Spool{d}, err
}

// Announced is what is known of an archive before it comes.
type Announced struct {
	// Bytes is its size, 0 where that is not known.
	Bytes uint64
	// SHA256 is its digest, or nil: then it is checked by its own alone.
	SHA256 []byte
	// VolumeBytes is the size of the volume that it is to become.
	VolumeBytes uint64
}

// spooled names what lies in the spool to those who have no room for it.
const spooled = "archive"

// slack is how much larger than its volume an archive may be: the names, owners and attributes of files take more room in it than on a
// volume, where they are many and nothing of it can be compressed.
const slack = 256 << 20

// Check refuses an archive that no import may have. The fields are those of the API's message "start".
func (a Announced) Check() error {
	if n := len(a.SHA256); n != 0 && n != sha256.Size {
		return fault.Field("start.sha256", "%d bytes must be %d, or none", n, sha256.Size)
	}
	if a.Bytes > a.most() {
		return a.tooLarge(a.Bytes)
	}
	return nil
}

func (a Announced) most() uint64 { return a.VolumeBytes + slack }

func (a Announced) tooLarge(bytes uint64) error {
	return fault.New(errdefs.ErrOutOfRange, TooLarge, "an archive of %d bytes or more is too large for a volume of %d bytes: grow the volume first", bytes, a.VolumeBytes)
}

// Archive is an archive that is kept. It has been verified.
type Archive struct {
	// Name of its file.
	Name string
	// Bytes is its size.
	Bytes uint64
	// SHA256 is its digest.
	SHA256 []byte
	// Manifest is what it says of itself.
	Manifest archive.Manifest
}

// Receive reads an archive from r to its end, verifies it, and keeps it until Remove. Nothing stays behind when it fails: with the faults
// INVALID_FIELD, DIGEST_MISMATCH, BAD_ARCHIVE, DATA_DAMAGED, DATA_TOO_LARGE, DISK_LOW, or r's own error.
func (s *Spool) Receive(ctx context.Context, want Announced, r io.Reader) (a Archive, err error) {
	if err := want.Check(); err != nil {
		return Archive{}, err
	}
	if err := s.dir.Room(want.Bytes, spooled); err != nil {
		return Archive{}, err
	}
	a.Name = rand.Text()
	f, err := os.OpenFile(s.dir.Path(a.Name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return Archive{}, fmt.Errorf("keep an archive: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	crashpoint.Reached("data_spool/created")
	if a.Bytes, a.SHA256, err = s.copy(f, r, want); err != nil {
		return Archive{}, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Archive{}, fmt.Errorf("keep an archive: %w", err)
	}
	if a.Manifest, err = archive.Verify(ctx, f); err != nil {
		return Archive{}, Fault(err)
	}
	if a.Manifest.Bytes > want.VolumeBytes {
		return Archive{}, fault.New(errdefs.ErrOutOfRange, TooLarge, "the archive holds %d bytes, and the phone's data volume has %d: grow it first", a.Manifest.Bytes, want.VolumeBytes)
	}
	// The volume comes beside the one that the phone has.
	if err := s.dir.Room(a.Manifest.Bytes, spooled); err != nil {
		return Archive{}, err
	}
	// An import is gone on with after a crash of the host, too.
	if err := errors.Join(f.Sync(), s.dir.Sync()); err != nil {
		return Archive{}, fmt.Errorf("keep an archive: %w", err)
	}
	crashpoint.Reached("data_spool/kept")
	return a, nil
}

// step is how much is received between two looks at the disk.
const step = 16 << 20

// copy writes what comes to f and checks its size and digest.
func (s *Spool) copy(f io.Writer, r io.Reader, want Announced) (size uint64, sum []byte, err error) {
	hash := sha256.New()
	both := io.MultiWriter(f, hash)
	for {
		n, err := io.CopyN(both, r, step)
		size += uint64(n)
		if size > want.most() {
			return 0, nil, want.tooLarge(size)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, nil, err
		}
		if err := s.dir.Room(0, spooled); err != nil {
			return 0, nil, err
		}
	}
	if want.Bytes != 0 && size != want.Bytes {
		return 0, nil, fault.Field("chunk", "%d bytes came, and %d were announced", size, want.Bytes)
	}
	sum = hash.Sum(nil)
	if len(want.SHA256) > 0 && !bytes.Equal(sum, want.SHA256) {
		return 0, nil, fault.New(errdefs.ErrDataLoss, DigestMismatch, "the archive has the SHA-256 %x, and %x was announced", sum, want.SHA256)
	}
	return size, sum, nil
}

// Open opens an archive; errdefs.ErrNotFound if it is not there.
func (s *Spool) Open(name string) (io.ReadCloser, error) {
	f, err := os.Open(s.dir.Path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the archive that is to be imported is gone: %w", errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("the archive that is to be imported: %w", err)
	}
	return f, nil
}

// Remove removes an archive; one that is gone is no error.
func (s *Spool) Remove(name string) error { return s.dir.Remove(name) }

// Collect removes the archives that an earlier agent kept and that are not named.
func (s *Spool) Collect(named func(name string) bool) error { return s.dir.Collect(named) }
