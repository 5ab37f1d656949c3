package app

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/spool"
	"github.com/phonehost/phonehost/runtime/apk"
	"github.com/phonehost/phonehost/runtime/crashpoint"
)

// Limits of an installation.
const (
	// MaxAPKs is how many APKs a base and its splits may be.
	MaxAPKs = 50
	// MaxBytes is how many bytes they may have together.
	MaxBytes = 4 << 30
)

// Spool keeps the APKs of installations, in a directory for each.
type Spool struct{ dir *spool.Dir }

// NewSpool returns the spool in dir. free returns the free bytes of its disk, of which reserve stay free.
func NewSpool(dir string, free func() (uint64, error), reserve uint64) (*Spool, error) {
	d, err := spool.Open(dir, free, reserve)
	return &Spool{d}, err
}

// File is an APK that is announced.
type File struct {
	// Size in bytes.
	Size uint64
	// SHA256 is its digest, or nil: then it is not checked.
	SHA256 []byte
}

// APK is an APK that is kept.
type APK struct {
	// Size in bytes.
	Size uint64 `json:"size"`
	// SHA256 is its digest.
	SHA256 []byte `json:"sha256"`
	// Split is empty for the base.
	Split string `json:"split,omitempty"`
}

// Set is what an installation installs: a base APK and its splits, as files 0.apk, 1.apk... of a directory of the spool.
type Set struct {
	// Name of the directory.
	Name string `json:"name"`
	// APKs in the order of their files.
	APKs []APK `json:"apks"`
	// App is the base.
	App *apk.Info `json:"-"`
}

// bytes is the size of all.
func (s Set) bytes() uint64 {
	var all uint64
	for _, a := range s.APKs {
		all += a.Size
	}
	return all
}

// CheckFiles refuses APKs that no installation may have. The fields are those of the API's message "start".
func CheckFiles(files []File) error {
	if len(files) == 0 || len(files) > MaxAPKs {
		return fault.Field("start.apks", "%d APKs must be 1..%d", len(files), MaxAPKs)
	}
	var all uint64
	for i, f := range files {
		if f.Size == 0 || f.Size > MaxBytes {
			return fault.Field("start.apks", "APK %d has %d bytes and must have 1..%d", i, f.Size, uint64(MaxBytes))
		}
		if n := len(f.SHA256); n != 0 && n != sha256.Size {
			return fault.Field("start.apks", "the SHA-256 of APK %d has %d bytes and must have %d", i, n, sha256.Size)
		}
		all += f.Size
	}
	if all > MaxBytes {
		return fault.Field("start.apks", "%d bytes together are more than %d", all, uint64(MaxBytes))
	}
	return nil
}

// Receive reads the APKs from r, one after another, checks them, and keeps them until Remove. It needs room for all of them besides the
// disk's reserve. Nothing stays behind when it fails: with the faults INVALID_FIELD, DIGEST_MISMATCH, BAD_APK, DISK_LOW, or r's own error.
func (s *Spool) Receive(ctx context.Context, files []File, r io.Reader) (set Set, err error) {
	if err := CheckFiles(files); err != nil {
		return Set{}, err
	}
	set.Name = rand.Text()
	var all uint64
	for _, f := range files {
		all += f.Size
	}
	if err := s.dir.Room(all, "app"); err != nil {
		return Set{}, err
	}
	dir := s.dir.Path(set.Name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return Set{}, fmt.Errorf("keep an app: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	crashpoint.Reached("spool/directory")
	infos := make([]*apk.Info, len(files))
	for i, f := range files {
		if err := ctx.Err(); err != nil {
			return Set{}, context.Cause(ctx)
		}
		sum, info, err := receive(s.path(set, i), f, i, r)
		if err != nil {
			return Set{}, err
		}
		infos[i] = info
		set.APKs = append(set.APKs, APK{Size: f.Size, SHA256: sum, Split: info.Split})
		if info.Base() {
			set.App = info
		}
	}
	if n, err := io.ReadFull(r, make([]byte, 1)); n > 0 {
		return Set{}, fault.Field("chunk", "more bytes came than the announced sizes have together")
	} else if !errors.Is(err, io.EOF) {
		return Set{}, err
	}
	if err := apk.CheckSet(infos); err != nil {
		return Set{}, badAPK(err)
	}
	// An installation is gone on with after a crash of the host, too.
	if err := s.dir.Sync(set.Name); err != nil {
		return Set{}, fmt.Errorf("keep an app: %w", err)
	}
	return set, nil
}

func (s *Spool) path(set Set, i int) string {
	return s.dir.Path(set.Name, strconv.Itoa(i)+".apk")
}

// receive writes one APK and reads what it says of itself.
func receive(path string, f File, i int, r io.Reader) ([]byte, *apk.Info, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("keep an app: %w", err)
	}
	defer file.Close()
	hash := sha256.New()
	n, err := io.CopyN(io.MultiWriter(file, hash), r, int64(f.Size))
	if errors.Is(err, io.EOF) {
		return nil, nil, fault.Field("chunk", "the bytes ended after %d of the %d of APK %d", n, f.Size, i)
	}
	if err != nil {
		return nil, nil, err
	}
	sum := hash.Sum(nil)
	if len(f.SHA256) > 0 && !bytes.Equal(sum, f.SHA256) {
		return nil, nil, fault.New(errdefs.ErrDataLoss, DigestMismatch, "APK %d has the SHA-256 %x, and %x was announced", i, sum, f.SHA256)
	}
	info, err := apk.Read(file, int64(f.Size))
	if err != nil {
		return nil, nil, fmt.Errorf("APK %d: %w", i, badAPK(err))
	}
	if err := file.Sync(); err != nil {
		return nil, nil, fmt.Errorf("keep an app: %w", err)
	}
	crashpoint.Reached("spool/kept")
	return sum, info, nil
}

// badAPK gives what the reader of APKs refuses its reason; the disk's errors stay as they are.
func badAPK(err error) error {
	if errdefs.IsInvalidArgument(err) {
		return fault.New(errdefs.ErrInvalidArgument, BadAPK, "%s", fault.Readable(fault.Words(err)))
	}
	return err
}

// Open opens an APK of a set.
func (s *Spool) Open(set Set, i int) (*os.File, error) {
	f, err := os.Open(s.path(set, i))
	if err != nil {
		return nil, fmt.Errorf("what is to be installed: %w", err)
	}
	return f, nil
}

// Remove removes a set; one that is gone is no error.
func (s *Spool) Remove(set Set) error { return s.dir.Remove(set.Name) }

// Collect removes the sets that an earlier agent kept and that no operation names.
func (s *Spool) Collect(named func(name string) bool) error { return s.dir.Collect(named) }
