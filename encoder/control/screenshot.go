package control

import (
	"context"
	"fmt"
	"image/png"
	"runtime/debug"

	"github.com/containerd/errdefs"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// maxShots is how many screenshots a client may wait for.
const maxShots = 4

// chunkSize is the size in bytes of the parts of a screenshot.
const chunkSize = 64 << 10

// askShot queues a screenshot for the goroutine that takes them, because compressing takes longer than input may wait.
func (c *conn) askShot(request uint64) error {
	if !c.server.config.Screen.HasContent() {
		return fmt.Errorf("the screen has no content yet: %w", errdefs.ErrFailedPrecondition)
	}
	select {
	case c.shots <- request:
		return nil
	default:
		return fmt.Errorf("%d screenshots are waited for already: %w", maxShots, errdefs.ErrFailedPrecondition)
	}
}

// takeShots is the goroutine that takes screenshots.
func (c *conn) takeShots(ctx context.Context) {
	for {
		select {
		case request := <-c.shots:
			if err := c.sendShot(request); err != nil {
				return // the connection is closed
			}
		case <-ctx.Done():
			return
		}
	}
}

// sendShot sends the last committed frame as PNG.
func (c *conn) sendShot(request uint64) error {
	// The picture and the compressor's tables are many times what an idle display holds.
	defer debug.FreeOSMemory()
	w := &chunkWriter{conn: c, request: request, buffer: make([]byte, 0, chunkSize)}
	encoder := png.Encoder{CompressionLevel: png.BestSpeed}
	if err := encoder.Encode(w, c.server.config.Screen.Snapshot()); err != nil {
		return err
	}
	return w.flush(true)
}

// chunkWriter sends what is written to it in chunks; all but the last are full.
type chunkWriter struct {
	conn    *conn
	request uint64
	buffer  []byte
}

func (w *chunkWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if len(w.buffer) == cap(w.buffer) {
			if err := w.flush(false); err != nil {
				return 0, err
			}
		}
		n := min(len(p), cap(w.buffer)-len(w.buffer))
		w.buffer = append(w.buffer, p[:n]...)
		p = p[n:]
	}
	return total, nil
}

func (w *chunkWriter) flush(last bool) error {
	err := w.conn.out.write(&displayv1.ServerMessage{Request: w.request, Message: &displayv1.ServerMessage_Screenshot{
		Screenshot: &displayv1.ScreenshotChunk{Data: w.buffer, Last: last},
	}})
	w.buffer = w.buffer[:0]
	return err
}
