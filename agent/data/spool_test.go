package data_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/data"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/runtime/volume/archive"
)

// made is an archive of a directory with one file.
func made(t *testing.T, content string) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var b bytes.Buffer
	if _, err := archive.Export(t.Context(), root, archive.Manifest{Phone: "p1", Profile: "testphone"}, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// newSpool returns a spool on a disk with so many free bytes, of which one MiB is the reserve.
func newSpool(t *testing.T, free *uint64) (*data.Spool, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "spool")
	s, err := data.NewSpool(dir, func() (uint64, error) { return *free, nil }, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func kept(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestReceive(t *testing.T) {
	free := uint64(1 << 30)
	s, dir := newSpool(t, &free)
	content := made(t, "photos")
	sum := sha256.Sum256(content)
	a, err := s.Receive(t.Context(), data.Announced{Bytes: uint64(len(content)), SHA256: sum[:], VolumeBytes: 1 << 20}, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if a.Bytes != uint64(len(content)) || !bytes.Equal(a.SHA256, sum[:]) || a.Manifest.Phone != "p1" || a.Manifest.Bytes != 6 {
		t.Errorf("kept as %+v", a)
	}
	f, err := s.Open(a.Name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil || !bytes.Equal(got, content) {
		t.Errorf("opened: %d bytes, %v", len(got), err)
	}
	b, err := s.Receive(t.Context(), data.Announced{VolumeBytes: 1 << 20}, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Collect(func(name string) bool { return name == a.Name }); err != nil {
		t.Error(err)
	}
	if _, err := s.Open(b.Name); !errdefs.IsNotFound(err) {
		t.Errorf("one that nobody names is still there: %v", err)
	}
	for range 2 { // twice does nothing
		if err := s.Remove(a.Name); err != nil {
			t.Error(err)
		}
	}
	if names := kept(t, dir); len(names) != 0 {
		t.Errorf("left: %v", names)
	}
	for _, name := range []string{"", ".", "..", "../x", "a/b"} {
		if err := s.Remove(name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the spool itself: %v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestReceiveRefuses(t *testing.T) {
	content := made(t, "photos")
	noise := make([]byte, 64<<10)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise) // never fails
	damaged := made(t, string(noise))
	damaged[len(damaged)/2] ^= 0xff
	gone := errors.New("the caller has gone")
	wrong := sha256.Sum256(nil)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tt := range map[string]struct {
		ctx    context.Context
		free   uint64
		want   data.Announced
		r      io.Reader
		reason string
		err    error
	}{
		"short digest":       {want: data.Announced{SHA256: []byte("x")}, reason: fault.InvalidField, err: errdefs.ErrInvalidArgument},
		"other bytes":        {want: data.Announced{SHA256: wrong[:]}, reason: data.DigestMismatch, err: errdefs.ErrDataLoss},
		"fewer bytes":        {want: data.Announced{Bytes: uint64(len(content)) + 1}, reason: fault.InvalidField, err: errdefs.ErrInvalidArgument},
		"more bytes":         {want: data.Announced{Bytes: uint64(len(content)) - 1}, reason: fault.InvalidField, err: errdefs.ErrInvalidArgument},
		"announced large":    {want: data.Announced{Bytes: 1 << 40}, reason: data.TooLarge, err: errdefs.ErrOutOfRange},
		"a small volume":     {want: data.Announced{VolumeBytes: 5}, reason: data.TooLarge, err: errdefs.ErrOutOfRange},
		"cut short":          {r: bytes.NewReader(content[:len(content)/2]), reason: data.Damaged, err: errdefs.ErrDataLoss},
		"damaged":            {r: bytes.NewReader(damaged), reason: data.Damaged, err: errdefs.ErrDataLoss},
		"something behind":   {r: io.MultiReader(bytes.NewReader(content), bytes.NewReader([]byte("x"))), reason: data.Damaged, err: errdefs.ErrDataLoss},
		"nothing":            {r: bytes.NewReader(nil), reason: data.BadArchive, err: errdefs.ErrInvalidArgument},
		"no archive":         {r: bytes.NewReader([]byte("this is a letter, no archive")), reason: data.BadArchive, err: errdefs.ErrInvalidArgument},
		"a caller that goes": {r: io.MultiReader(bytes.NewReader(content), errReader{gone}), err: gone},
		"a call that ended":  {ctx: ended, err: context.Canceled},
		"no room":            {free: 1 << 20, want: data.Announced{Bytes: uint64(len(content))}, reason: fault.DiskLow, err: errdefs.ErrResourceExhausted},
		"no room for it":     {free: 1<<20 + 5, reason: fault.DiskLow, err: errdefs.ErrResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			free := tt.free
			if free == 0 {
				free = 1 << 30
			}
			s, dir := newSpool(t, &free)
			if tt.r == nil {
				tt.r = bytes.NewReader(content)
			}
			if tt.want.VolumeBytes == 0 {
				tt.want.VolumeBytes = 1 << 20
			}
			if tt.ctx == nil {
				tt.ctx = t.Context()
			}
			a, err := s.Receive(tt.ctx, tt.want, tt.r)
			if fault.Reason(err) != tt.reason || !errors.Is(err, tt.err) {
				t.Errorf("%+v, %v, want reason %q, error %v", a, err, tt.reason, tt.err)
			}
			if names := kept(t, dir); len(names) != 0 {
				t.Errorf("left: %v", names)
			}
		})
	}
}

// filling is a stream without end of a caller who takes the disk's room.
type filling struct{ free *uint64 }

func (f filling) Read(p []byte) (int, error) {
	*f.free -= min(*f.free, uint64(len(p)))
	return len(p), nil
}

// TestReceiveStopsBeforeTheDiskIsFull does not trust what is announced, or not.
func TestReceiveStopsBeforeTheDiskIsFull(t *testing.T) {
	free := uint64(40 << 20)
	s, dir := newSpool(t, &free)
	_, err := s.Receive(t.Context(), data.Announced{VolumeBytes: 1 << 30}, filling{&free})
	if fault.Reason(err) != fault.DiskLow || len(kept(t, dir)) != 0 {
		t.Errorf("%v, left %v", err, kept(t, dir))
	}
	plenty := uint64(1 << 40)
	s, dir = newSpool(t, &plenty)
	_, err = s.Receive(t.Context(), data.Announced{VolumeBytes: 1 << 20}, filling{&plenty})
	if fault.Reason(err) != data.TooLarge || len(kept(t, dir)) != 0 {
		t.Errorf("%v, left %v", err, kept(t, dir))
	}
}

func TestFault(t *testing.T) {
	for _, tt := range []struct {
		err    error
		reason string
	}{
		{nil, ""}, {io.ErrUnexpectedEOF, ""}, {context.Canceled, ""},
		{fmt.Errorf("x: %w", errdefs.ErrDataLoss), data.Damaged},
		{fmt.Errorf("x: %w", errdefs.ErrOutOfRange), data.TooLarge},
		{fmt.Errorf("x: %w", errdefs.ErrInvalidArgument), data.BadArchive},
		{fmt.Errorf("x: %w", errdefs.ErrNotImplemented), data.BadArchive},
		{fault.New(errdefs.ErrDataLoss, data.DigestMismatch, "x"), data.DigestMismatch},
	} {
		got := data.Fault(tt.err)
		if fault.Reason(got) != tt.reason || fault.Code(got) != fault.Code(tt.err) {
			t.Errorf("%v became %v, want reason %q", tt.err, got, tt.reason)
		}
	}
}
