package screen

import (
	"errors"
	"fmt"
	"image"
	"unsafe"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
	"github.com/phonehost/phonehost/scripts/testphone/paint"
	"golang.org/x/sys/unix"
)

// buffers is how many buffers go round.
const buffers = 3

// maxStale is how many rectangles a buffer may lack before it is copied whole.
const maxStale = 64

// buffer is memory that the display sees, and what of the picture it lacks.
type buffer struct {
	id     uint32
	memory []byte
	pix    []uint32 // memory
	stale  []image.Rectangle
	whole  bool // all of it is stale
}

// newBuffer makes a memfd, a pool and the pool's only buffer, and gives up the pool and the descriptor, as Waydroid does.
func (s *composer) newBuffer() (*buffer, error) {
	stride := s.width * 4
	size := stride * s.height
	fd, err := unix.MemfdCreate("buffer", unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, fmt.Errorf("size memfd: %w", err)
	}
	memory, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map memfd: %w", err)
	}
	b := &buffer{memory: memory, pix: unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(memory))), size/4), whole: true}
	pool := s.create(protocol.WlShmPool)
	b.id = s.create(protocol.WlBuffer)
	err = errors.Join(
		s.send(s.globals["wl_shm"].id, protocol.WlShm, protocol.WlShmRequestCreatePool, wire.NewID(pool), wire.FD(fd), wire.Int(int32(size))),
		s.send(pool, protocol.WlShmPool, protocol.WlShmPoolRequestCreateBuffer, wire.NewID(b.id), wire.Int(0),
			wire.Int(int32(s.width)), wire.Int(int32(s.height)), wire.Int(int32(stride)), wire.Uint(protocol.WlShmFormatArgb8888)),
		s.send(pool, protocol.WlShmPool, protocol.WlShmPoolRequestDestroy),
	)
	if err != nil {
		return nil, errors.Join(err, b.unmap())
	}
	return b, nil
}

func (b *buffer) unmap() error { return unix.Munmap(b.memory) }

// lacks notes that the picture has changed.
func (b *buffer) lacks(damage []image.Rectangle) {
	if b.whole = b.whole || len(b.stale)+len(damage) > maxStale; b.whole {
		b.stale = b.stale[:0]
		return
	}
	b.stale = append(b.stale, damage...)
}

// catchUp copies what the buffer lacks.
func (b *buffer) catchUp(c *paint.Canvas) {
	if b.whole {
		copy(b.pix, c.Pix)
	}
	for _, r := range b.stale {
		for y := r.Min.Y; y < r.Max.Y; y++ {
			from, to := y*c.Width+r.Min.X, y*c.Width+r.Max.X
			copy(b.pix[from:to], c.Pix[from:to])
		}
	}
	b.stale, b.whole = b.stale[:0], false
}

// present commits the picture in the next buffer.
func (s *composer) present(damage []image.Rectangle) error {
	s.turn = (s.turn + 1) % buffers
	if s.buffers[s.turn] == nil {
		b, err := s.newBuffer()
		if err != nil {
			return err
		}
		s.buffers[s.turn] = b
	}
	for _, b := range s.buffers {
		if b != nil {
			b.lacks(damage)
		}
	}
	b := s.buffers[s.turn]
	b.catchUp(s.picture.Canvas())
	err := s.send(s.surface, protocol.WlSurface, protocol.WlSurfaceRequestAttach, wire.Object(b.id), wire.Int(0), wire.Int(0))
	if s.globals["wl_compositor"].version >= 4 {
		err = errors.Join(err, s.send(s.surface, protocol.WlSurface, protocol.WlSurfaceRequestDamageBuffer,
			wire.Int(0), wire.Int(0), wire.Int(int32(s.width)), wire.Int(int32(s.height))))
	} else {
		err = errors.Join(err, s.send(s.surface, protocol.WlSurface, protocol.WlSurfaceRequestDamage,
			wire.Int(0), wire.Int(0), wire.Int(int32(s.width)), wire.Int(int32(s.height))))
	}
	if s.scale > 1 {
		err = errors.Join(err, s.send(s.surface, protocol.WlSurface, protocol.WlSurfaceRequestSetBufferScale, wire.Int(int32(s.scale))))
	}
	return errors.Join(err,
		s.send(s.surface, protocol.WlSurface, protocol.WlSurfaceRequestSetBufferTransform, wire.Int(protocol.WlOutputTransformNormal)),
		s.send(s.surface, protocol.WlSurface, protocol.WlSurfaceRequestCommit),
		s.flush(),
	)
}
