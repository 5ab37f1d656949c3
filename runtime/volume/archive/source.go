package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
)

// blockBytes is the size of a tar's blocks.
const blockBytes = 512

// maxWindow bounds how far zstd may look back, and so what it keeps in memory, in bytes. It is what the encoder uses.
const maxWindow = 8 << 20

// source is the tar archive inside a stream: it decompresses, counts and digests what is read. Only one goroutine uses it.
type source struct {
	in   *input
	zstd *zstd.Decoder
	left int64 // how many more bytes there may be
	// digest is over everything that was read but the last block: when a header has been read, over everything before it.
	digest hash.Hash
	last   []byte
	// owed is how much was read with stream that the reader of the tar is about to read, for it to skip.
	owed int64
}

// input is the stream as it comes. It keeps an error of it apart from what is wrong with its content.
type input struct {
	r io.Reader

	mu  sync.Mutex
	err error
}

// Read is called by the decoder, from a goroutine of its own if it is a concurrent one.
func (i *input) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	if err != nil && err != io.EOF {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.err = err
	}
	return n, err
}

func (i *input) failed() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.err
}

// Decoders of a source. One that is not ahead reads no further than it is asked to, and starts no goroutine.
const (
	asked = 1
	ahead = 2
)

// newSource allows as much as a manifest needs. The caller closes it.
func newSource(r io.Reader, decoders int) (*source, error) {
	in := &input{r: r}
	d, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(decoders), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	s := &source{in: in, zstd: d, left: maxManifest + streamOverhead, digest: sha256.New(), last: make([]byte, 0, blockBytes)}
	if err != nil {
		return nil, s.foreign(err)
	}
	return s, nil
}

func (s *source) close() { s.zstd.Close() }

// Read is for the reader of the tar. What was read past it is made up of zeros: it skips them.
func (s *source) Read(p []byte) (int, error) {
	if s.owed == 0 {
		return s.stream(p)
	}
	p = p[:min(int64(len(p)), s.owed)]
	clear(p)
	s.owed -= int64(len(p))
	return len(p), nil
}

// stream reads what comes next.
func (s *source) stream(p []byte) (int, error) {
	if s.left == 0 && len(p) > 0 {
		// The end is none too much.
		n, err := s.zstd.Read(p[:1])
		if n > 0 {
			return 0, fmt.Errorf("the archive holds more than its manifest says: %w", errdefs.ErrInvalidArgument)
		}
		return 0, err
	}
	n, err := s.zstd.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	s.count(p[:n])
	return n, err
}

// count digests what was read, a block behind.
func (s *source) count(p []byte) {
	if over := len(s.last) + len(p) - blockBytes; over > 0 {
		n := min(over, len(s.last))
		s.digest.Write(s.last[:n])
		s.last = append(s.last[:0], s.last[n:]...)
		s.digest.Write(p[:over-n])
		p = p[over-n:]
	}
	s.last = append(s.last, p...)
}

// sum is the digest of everything that was read, without the last block.
func (s *source) sum() string { return hex.EncodeToString(s.digest.Sum(nil)) }

// content is a reader of n bytes of the tar that its reader does not see: it skips them.
func (s *source) content(n int64) io.Reader { return &content{source: s, left: n} }

type content struct {
	source *source
	left   int64
}

func (c *content) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.source.stream(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	c.source.owed += int64(n)
	if err == io.EOF && c.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// damaged gives an error of reading an archive its class. One of the stream that it comes from stays what it is.
func (s *source) damaged(err error) error {
	switch {
	case s.in.failed() != nil:
		return fmt.Errorf("read the archive: %w", s.in.failed())
	case errdefs.IsInvalidArgument(err):
		return err
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("the archive is damaged or cut short: %w: %w", err, errdefs.ErrDataLoss)
}

// foreign is damaged at the very beginning: what does not begin like an archive is something else.
func (s *source) foreign(err error) error {
	if s.in.failed() != nil || errors.Is(err, io.ErrUnexpectedEOF) {
		return s.damaged(err)
	}
	return fmt.Errorf("this is no archive of a data volume: %w: %w", err, errdefs.ErrInvalidArgument)
}
