package logger

import (
	"fmt"
	"os"
)

// rotating is an append-only file that becomes PATH.1 when it is full. One goroutine uses it.
type rotating struct {
	path string
	max  int64

	f    *os.File // nil after an error, until the next write opens it again
	size int64
}

// write appends whole lines. After an error nothing or a part of them is in the file, and the next write begins on a fresh line.
func (r *rotating) write(lines []byte) error {
	if r.f == nil {
		if err := r.open(); err != nil {
			return err
		}
	}
	if r.size > 0 && r.size+int64(len(lines)) > r.max {
		if err := r.rotate(); err != nil {
			return err
		}
	}
	n, err := r.f.Write(lines)
	r.size += int64(n)
	if err != nil {
		r.close()
		return fmt.Errorf("write log %s: %w", r.path, err)
	}
	return nil
}

func (r *rotating) open() error {
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("look at log: %w", err)
	}
	r.f, r.size = f, info.Size()
	if r.size == 0 {
		return nil
	}
	// A writer that was killed, or a full disk, may have left half a line.
	var last [1]byte
	if _, err := f.ReadAt(last[:], r.size-1); err == nil && last[0] != '\n' {
		n, err := f.Write([]byte{'\n'})
		r.size += int64(n)
		if err != nil {
			r.close()
			return fmt.Errorf("end the last line of log %s: %w", r.path, err)
		}
	}
	return nil
}

func (r *rotating) rotate() error {
	r.close()
	if err := os.Rename(r.path, r.path+".1"); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	return r.open()
}

func (r *rotating) close() {
	if r.f != nil {
		r.f.Close()
		r.f = nil
	}
}
