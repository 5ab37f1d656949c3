package logger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// TailOptions choose what Tail returns.
type TailOptions struct {
	// Bytes bounds the text, at least 1.
	Bytes int
	// Since leaves out lines that were read before; zero takes all.
	Since time.Time
	// Quiet makes Tail wait until nothing has been written for so long, at most ten times as long: of a container that has just ended
	// the last lines may still be on their way. Zero reads what is there.
	Quiet time.Duration
}

// quietTimes bounds the wait of TailOptions.Quiet.
const quietTimes = 10

// Tail returns the text of the log's last lines, one a line, without the newline of the last. Of a line that does not fit whole only the
// end is returned, if it is the last one; bytes that are not UTF-8 are replaced. A log that does not exist is empty.
func Tail(ctx context.Context, path string, o TailOptions) (string, error) {
	if o.Quiet > 0 {
		if err := settle(ctx, path, o.Quiet); err != nil {
			return "", err
		}
	}
	t := tail{limit: o.Bytes, since: o.Since}
	for _, name := range []string{path, path + ".1"} {
		raw, whole, err := lastBytes(name, int64(o.Bytes)+MaxText)
		if err != nil {
			return "", err
		}
		if t.add(string(raw), whole) {
			break
		}
	}
	return join(t.texts), nil
}

// tail gathers lines from the newest on.
type tail struct {
	limit int
	since time.Time
	texts []string // newest first
	size  int      // with newlines
}

// add takes the lines of a file's end and reports whether that was enough. whole tells that it is all of the file.
func (t *tail) add(raw string, whole bool) (enough bool) {
	lines := strings.Split(strings.TrimSuffix(raw, "\n"), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if i == 0 && !whole && len(t.texts) > 0 {
			return true // its beginning was not read
		}
		text := lines[i]
		if text == "" {
			continue
		}
		if l, err := Parse([]byte(text)); err == nil {
			if l.Time.Before(t.since) {
				return true
			}
			text = l.Text
		}
		text = strings.ToValidUTF8(text, "\uFFFD")
		if t.size += len(text) + 1; t.size > t.limit+1 {
			if len(t.texts) == 0 {
				t.texts = []string{suffix(text, t.limit)}
			}
			return true
		}
		t.texts = append(t.texts, text)
	}
	return false
}

func join(newestFirst []string) string {
	var b strings.Builder
	for i := len(newestFirst) - 1; i >= 0; i-- {
		b.WriteString(newestFirst[i])
		if i > 0 {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// suffix returns the end of a valid text, at most n bytes, at the border of a character.
func suffix(text string, n int) string {
	if len(text) <= n {
		return text
	}
	i := len(text) - n
	for i < len(text) && !utf8.RuneStart(text[i]) {
		i++
	}
	return text[i:]
}

// lastBytes reads the end of a file, and tells whether that is all of it. A file that does not exist is empty.
func lastBytes(name string, n int64) (data []byte, whole bool, err error) {
	f, err := openLog(name)
	if err != nil || f == nil {
		return nil, true, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false, fmt.Errorf("look at log: %w", err)
	}
	from := max(0, info.Size()-n)
	data, err = io.ReadAll(io.NewSectionReader(f, from, n))
	if err != nil {
		return nil, false, fmt.Errorf("read the end of log %s: %w", name, err)
	}
	return data, from == 0, nil
}

// settle waits until the log has not been written to for a while.
func settle(ctx context.Context, path string, quiet time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, quietTimes*quiet)
	defer cancel()
	w, err := watchDir(ctx, filepath.Dir(path))
	if err != nil {
		return err
	}
	defer w.close()
	for ctx.Err() == nil {
		if err := w.f.SetReadDeadline(time.Now().Add(quiet)); err != nil {
			return fmt.Errorf("wait for the log: %w", err)
		}
		err := w.wait(ctx)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}
