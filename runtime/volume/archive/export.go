package archive

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"
)

// encoders bounds how many cores an export takes: the phones of the host run on.
const encoders = 2

// Watcher is a writer that Export tells, beside what it writes, how far it is. Advanced may be called beside Write, by another goroutine.
type Watcher interface {
	io.Writer
	// Begun is called once, before anything is written. Its error ends the export.
	Begun(m Manifest) error
	// Advanced is called with how much of the manifest's Bytes has been read so far. The compressor may still have some of it.
	Advanced(bytes uint64)
}

// Export writes an archive of everything below root to w. Of m it takes what the caller knows, and returns the manifest of the archive.
// Nothing else changes the tree meanwhile: it is gone through twice, since the manifest, which counts it, comes first. A Watcher is told
// how far it is.
//
// Errors: errdefs.ErrResourceExhausted for more than 262144 files with several names; those of w, of ctx and of the file
// system as they are. What was written before an error is no archive.
func Export(ctx context.Context, root *os.Root, m Manifest, w io.Writer) (Manifest, error) {
	top, err := root.Open(".")
	if err != nil {
		return Manifest{}, fmt.Errorf("export: %w", err)
	}
	defer top.Close()
	if m, err = survey(ctx, top, m); err != nil {
		return Manifest{}, fmt.Errorf("export: %w", err)
	}
	watcher, watched := w.(Watcher)
	if watched {
		if err := watcher.Begun(m); err != nil {
			return Manifest{}, fmt.Errorf("export: %w", err)
		}
	}
	// The next level takes a third more time and makes the archive smaller by a hundredth; the phone is off meanwhile.
	compressed, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(encoders), zstd.WithWindowSize(maxWindow))
	if err != nil {
		return Manifest{}, fmt.Errorf("export: %w", err)
	}
	e := &exporter{ctx: ctx, buf: make([]byte, copyBytes), progress: func(uint64) {}}
	if watched {
		e.progress = watcher.Advanced
	}
	err = e.write(top, m, compressed)
	// Closing it writes the rest, which is of no use after an error, but ends its goroutines.
	if err := errors.Join(err, compressed.Close()); err != nil {
		return Manifest{}, fmt.Errorf("export: %w", err)
	}
	return m, nil
}

// survey counts what the archive will hold.
func survey(ctx context.Context, root *os.File, m Manifest) (Manifest, error) {
	m.Format, m.Created = Format, time.Now().UTC()
	m.Entries, m.Bytes, m.Extents = 0, 0, 0
	skipped, err := walk(ctx, root, func(f *file) error {
		if !f.content() {
			m.add(nil, 0)
			return nil
		}
		pieces, err := f.pieces()
		m.add(pieces, f.stat.Size)
		return err
	})
	m.LeftOut = skipped
	return m, err
}

// add counts an entry.
func (m *Manifest) add(pieces []piece, size int64) {
	m.Entries++
	m.Bytes += uint64(total(pieces))
	if holes(pieces, size) {
		m.Extents += uint64(len(pieces))
	}
}

// exporter writes the tar.
type exporter struct {
	ctx   context.Context
	tar   *tar.Writer
	under io.Writer // what tar writes to
	buf   []byte
	done  Manifest // counts of what was written
	// read is how much content was read, which progress is told.
	read     uint64
	progress func(read uint64)
}

// write writes the whole tar.
func (e *exporter) write(root *os.File, m Manifest, w *zstd.Encoder) error {
	digest := sha256.New()
	e.under = io.MultiWriter(w, digest)
	e.tar = tar.NewWriter(e.under)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := e.text(manifestName, string(text)+"\n"); err != nil {
		return err
	}
	// The manifest can be read out of the first bytes of the stream.
	if err := errors.Join(e.tar.Flush(), w.Flush()); err != nil {
		return err
	}
	if _, err := walk(e.ctx, root, e.file); err != nil {
		return err
	}
	if e.done.Entries != m.Entries || e.done.Bytes != m.Bytes || e.done.Extents != m.Extents {
		return errors.New("the files changed meanwhile")
	}
	if err := e.tar.Flush(); err != nil {
		return err
	}
	if err := e.text(digestName, hex.EncodeToString(digest.Sum(nil))+"\n"); err != nil {
		return err
	}
	return e.tar.Close()
}

// text writes an entry of the archive's own, whose header is one block.
func (e *exporter) text(name, text string) error {
	h := &tar.Header{Format: tar.FormatUSTAR, Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))}
	if err := e.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.WriteString(e.tar, text)
	return err
}

// file writes an entry of the tree.
func (e *exporter) file(f *file) error {
	h, err := f.header()
	if err != nil {
		return err
	}
	if !f.content() {
		e.done.add(nil, 0)
		return e.tar.WriteHeader(h)
	}
	pieces, err := f.pieces()
	if err != nil {
		return err
	}
	e.done.add(pieces, h.Size)
	if !holes(pieces, h.Size) {
		if err := e.tar.WriteHeader(h); err != nil {
			return err
		}
		return e.copy(f, pieces, e.tar)
	}
	// What the writer of the tar has still to write goes first.
	if err := e.tar.Flush(); err != nil {
		return err
	}
	if err := writeSparseHeader(e.under, h, pieces); err != nil {
		return err
	}
	if err := e.copy(f, pieces, e.under); err != nil {
		return err
	}
	_, err = e.under.Write(make([]byte, padding(total(pieces))))
	return err
}

// copy writes the content of a file.
func (e *exporter) copy(f *file, pieces []piece, to io.Writer) error {
	if len(pieces) == 0 {
		return nil
	}
	opened, err := open(f, 0)
	if err != nil {
		return err
	}
	defer opened.Close()
	for _, p := range pieces {
		for at := p.offset; at < p.end(); {
			if err := e.ctx.Err(); err != nil {
				return err
			}
			part := e.buf[:min(int64(len(e.buf)), p.end()-at)]
			if _, err := opened.ReadAt(part, at); err != nil {
				return f.failed(err)
			}
			if _, err := to.Write(part); err != nil {
				return err
			}
			at += int64(len(part))
			e.read += uint64(len(part))
			e.progress(e.read)
		}
	}
	return nil
}
