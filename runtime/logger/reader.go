package logger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ReadOptions choose what Read delivers.
type ReadOptions struct {
	// Follow goes on with new lines as they are written, until the context ends or the log's directory is removed.
	Follow bool
	// TailLines starts that many lines before the end; 0 means at the oldest line kept.
	TailLines int
}

// Read calls fn for each line of the log at path, the older file first. A log that does not exist has no lines; its directory must
// exist if it is followed. A line that cannot be parsed is delivered as a Remark without a time. An error of fn ends Read and is
// returned; the end of the context is returned as its error. A follower that falls two rotations behind misses a file.
func Read(ctx context.Context, path string, o ReadOptions, fn func(Line) error) error {
	var w *watch
	if o.Follow {
		var err error
		if w, err = watchDir(ctx, filepath.Dir(path)); err != nil {
			return err
		}
		defer w.close()
	}
	// The new file first: if the log is rotated in between, the old name shows the same file and what was older is gone.
	current, err := openLog(path)
	if err != nil {
		return err
	}
	older, err := openLog(path + ".1")
	if err != nil {
		return err
	}
	r := &reader{ctx: ctx, path: path, fn: fn, f: current}
	defer func() { r.close() }()
	err = r.start(older, o.TailLines)
	if older != nil {
		older.Close()
	}
	if err != nil || !o.Follow {
		return err
	}
	return r.follow(w)
}

// openLog opens a file, or returns nil if there is none.
func openLog(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// reader delivers the lines of a file that grows. One goroutine uses it.
type reader struct {
	ctx  context.Context
	path string
	fn   func(Line) error

	f    *os.File // nil while there is no log
	rest []byte   // the beginning of a line whose end is not written yet
}

func (r *reader) close() {
	if r.f != nil {
		r.f.Close()
		r.f = nil
	}
}

// start delivers what is there: the last tail lines, or everything if tail is 0.
func (r *reader) start(older *os.File, tail int) error {
	missing := tail
	if tail > 0 && r.f != nil {
		found, err := seekTail(r.f, tail)
		if err != nil {
			return fmt.Errorf("find the tail of log %s: %w", r.path, err)
		}
		missing -= found
	}
	if older != nil && (tail == 0 || missing > 0) && !sameFile(older, r.f) {
		if tail > 0 {
			if _, err := seekTail(older, missing); err != nil {
				return fmt.Errorf("find the tail of log %s.1: %w", r.path, err)
			}
		}
		if err := r.deliver(older); err != nil {
			return err
		}
		r.rest = nil // the newer file begins with a line of its own
	}
	if r.f == nil {
		return nil
	}
	return r.deliver(r.f)
}

func sameFile(a, b *os.File) bool {
	if a == nil || b == nil {
		return false
	}
	ai, aerr := a.Stat()
	bi, berr := b.Stat()
	return aerr == nil && berr == nil && os.SameFile(ai, bi)
}

// deliver reads f to its present end.
func (r *reader) deliver(f *os.File) error {
	buf := make([]byte, 64<<10)
	for {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(buf)
		r.rest = append(r.rest, buf[:n]...)
		lines := r.rest
		for {
			line, after, ok := bytes.Cut(lines, []byte{'\n'})
			if !ok {
				break
			}
			lines = after
			if err := r.line(line); err != nil {
				return err
			}
		}
		r.rest = append(r.rest[:0], lines...)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log %s: %w", r.path, err)
		}
	}
}

func (r *reader) line(raw []byte) error {
	l, err := Parse(raw)
	if err != nil {
		if len(raw) == 0 {
			return nil
		}
		l = Line{Stream: Remark, Text: string(raw)}
	}
	return r.fn(l)
}

// follow delivers new lines whenever the directory reports a change.
func (r *reader) follow(w *watch) error {
	for {
		next, err := openLog(r.path)
		if err != nil {
			return err
		}
		gone := next == nil
		if sameFile(next, r.f) {
			next.Close()
			next = nil
		}
		if r.f != nil {
			if err := r.deliver(r.f); err != nil {
				if next != nil {
					next.Close()
				}
				return err
			}
		}
		if next != nil { // the log was rotated, or has come into being
			r.close()
			r.f, r.rest = next, nil
			continue
		}
		if gone {
			r.close() // an open file would keep the kernel from telling that the directory is removed
		}
		if err := w.wait(r.ctx); err != nil {
			return err
		}
	}
}

// seekTail moves f to the beginning of its last n lines, n > 0, and returns how many it found. A line without an end counts.
func seekTail(f *os.File, n int) (found int, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	for pos := end; pos > 0; {
		size := min(pos, int64(len(buf)))
		pos -= size
		if _, err := f.ReadAt(buf[:size], pos); err != nil {
			return 0, err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] != '\n' || pos+i == end-1 {
				continue
			}
			if found++; found == n {
				_, err := f.Seek(pos+i+1, io.SeekStart)
				return found, err
			}
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	if end > 0 {
		found++
	}
	return found, nil
}
