package logger

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Config says where and how much to log. Zero values mean the defaults.
type Config struct {
	// Path of the log; its directory exists.
	Path string
	// MaxBytes is the size at which a file is rotated; two files are kept. Default 8 MiB.
	MaxBytes int64
	// Rate is how many bytes per second are written in the long run, and Burst how many at once after a silence.
	// Defaults 512 KiB/s and 4 MiB.
	Rate, Burst int64
}

const (
	// queueBytes bounds what waits for the disk.
	queueBytes = 256 << 10
	// remarkEvery bounds how often the count of dropped lines is written.
	remarkEvery = time.Second
)

func (c Config) withDefaults() Config {
	if c.MaxBytes == 0 {
		c.MaxBytes = 8 << 20
	}
	if c.Rate == 0 {
		c.Rate = 512 << 10
	}
	if c.Burst == 0 {
		c.Burst = 4 << 20
	}
	return c
}

// Copy writes what it reads from stdout and stderr to the log until both end. Either reader may be nil. It returns an error only
// if a reader fails otherwise than by its end; trouble with the files is counted as dropped lines.
func Copy(c Config, stdout, stderr io.Reader) error {
	c = c.withDefaults()
	q := &queue{bucket: bucket{rate: c.Rate, burst: c.Burst, level: c.Burst, at: time.Now()}, more: make(chan struct{}, 1)}
	var readers, writer sync.WaitGroup
	var outErr, errErr error
	writer.Go(func() { q.drain(&rotating{path: c.Path, max: c.MaxBytes}) })
	if stdout != nil {
		readers.Go(func() { outErr = split(stdout, Stdout, q.add) })
	}
	if stderr != nil {
		readers.Go(func() { errErr = split(stderr, Stderr, q.add) })
	}
	readers.Wait()
	q.close()
	writer.Wait()
	return errors.Join(outErr, errErr)
}

// split calls add for every line of r and for the rest after the last newline. A longer line than MaxText comes in parts.
func split(r io.Reader, stream string, add func(at time.Time, stream string, partial bool, text []byte)) error {
	buf := make([]byte, 2*MaxText)
	held := 0
	var began time.Time // when the first of the held bytes came
	for {
		n, err := r.Read(buf[held:])
		now := time.Now()
		if held == 0 {
			began = now
		}
		rest := buf[:held+n]
		for len(rest) > 0 {
			if i := bytes.IndexByte(rest[:min(len(rest), MaxText+1)], '\n'); i >= 0 {
				add(began, stream, false, rest[:i])
				rest = rest[i+1:]
			} else if len(rest) > MaxText {
				add(began, stream, true, rest[:MaxText])
				rest = rest[MaxText:]
			} else {
				break
			}
			began = now
		}
		held = copy(buf, rest)
		if err != nil {
			if held > 0 {
				add(began, stream, false, buf[:held])
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read %s: %w", stream, err)
		}
	}
}

// queue holds lines between the readers, which never wait, and the one goroutine that writes to the disk.
type queue struct {
	more chan struct{} // holds a token while there may be work

	mu      sync.Mutex
	bucket  bucket
	lines   []byte // formatted, at most queueBytes and one line
	dropped int64  // lines, since the last remark
	lost    int64  // their bytes
	closed  bool
}

func (q *queue) add(at time.Time, stream string, partial bool, text []byte) {
	q.mu.Lock()
	size := int64(len(timeLayout) + len(stream) + len(text) + 5)
	if len(q.lines) > queueBytes || !q.bucket.take(at, size) {
		q.dropped++
		q.lost += int64(len(text)) + 1
	} else {
		q.lines = appendLine(q.lines, at, stream, partial, text)
	}
	q.mu.Unlock()
	q.wake()
}

func (q *queue) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.wake()
}

// drain writes until the queue is closed and empty. A remark about dropped lines follows the first at once, and then each second
// in which some were.
func (q *queue) drain(out *rotating) {
	defer out.close()
	var spare []byte
	var pause <-chan time.Time // until the next remark; nil when it may come at once
	for {
		select {
		case <-q.more:
		case <-pause:
			pause = nil
		}
		q.mu.Lock()
		batch, closed := q.lines, q.closed
		q.lines = spare[:0]
		counted, lost := int64(0), q.lost
		if q.dropped > 0 && (pause == nil || closed) {
			counted = q.dropped
			q.dropped, q.lost = 0, 0
		}
		q.mu.Unlock()

		if counted > 0 {
			batch = appendLine(batch, time.Now(), Remark, false, fmt.Appendf(nil, "dropped %d lines, %d bytes", counted, lost))
		}
		err := q.flush(out, batch, counted)
		if pause == nil && (counted > 0 || err != nil) {
			pause = time.After(remarkEvery)
		}
		if closed {
			return
		}
		spare = batch
	}
}

// flush writes a batch. What cannot be written is counted as dropped, the lines that the batch's remark counted included.
func (q *queue) flush(out *rotating, batch []byte, counted int64) error {
	if len(batch) == 0 {
		return nil
	}
	err := out.write(batch)
	if err != nil {
		q.mu.Lock()
		q.dropped += int64(bytes.Count(batch, []byte{'\n'})) + counted
		q.lost += int64(len(batch))
		q.mu.Unlock()
	}
	return err
}

// bucket is a token bucket in bytes.
type bucket struct {
	rate, burst int64
	level       int64
	at          time.Time
}

// take reports whether n bytes may pass now, and counts them.
func (b *bucket) take(now time.Time, n int64) bool {
	if d := now.Sub(b.at); d > 0 {
		gain := int64(d.Seconds() * float64(b.rate))
		if gain > 0 {
			b.level = min(b.burst, b.level+gain)
			b.at = now
		}
	}
	if b.level < n {
		return false
	}
	b.level -= n
	return true
}
