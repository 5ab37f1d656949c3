// Package spool makes files for what has to lie on a disk while it is looked at. They have no name, and are gone with their last descriptor, whatever ends
// the process.
package spool

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// every is how many bytes are written between two questions for room.
const every = 16 << 20

// File is a file without a name. It is written by one goroutine at a time.
type File struct {
	*os.File
	room  func() error
	since int64 // bytes written since it asked
	full  error // what room has said
}

// New makes a file in a directory. room is asked by Ask, and when 16 MiB more have been written; its error comes back from then on, as it is. It may be
// nil.
func New(dir string, room func() error) (*File, error) {
	f, err := nameless(dir)
	if err != nil {
		return nil, err
	}
	return &File{File: f, room: room}, nil
}

// nameless makes a file without a name, or, where the file system knows no such files, takes its name away at once.
func nameless(dir string) (*os.File, error) {
	if fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600); err == nil {
		return os.NewFile(uintptr(fd), dir+"/(a file without a name)"), nil
	}
	f, err := os.CreateTemp(dir, ".spool-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Ask asks for room.
func (f *File) Ask() error {
	f.since = 0
	if f.room != nil && f.full == nil {
		f.full = f.room()
	}
	return f.full
}

func (f *File) wants(n int) error {
	if f.since += int64(n); f.since >= every {
		return f.Ask()
	}
	return f.full
}

// Write implements io.Writer.
func (f *File) Write(p []byte) (int, error) {
	if err := f.wants(len(p)); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

// WriteAt implements io.WriterAt.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.wants(len(p)); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}
