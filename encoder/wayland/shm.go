package wayland

import (
	"image"

	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
	"github.com/phonehost/phonehost/encoder/wayland/wire"
)

// formatOf returns how the screen calls a format of wl_shm.
func formatOf(format uint32) (screen.Format, bool) {
	switch format {
	case protocol.WlShmFormatArgb8888:
		return screen.ARGB8888, true
	case protocol.WlShmFormatXrgb8888:
		return screen.XRGB8888, true
	case protocol.WlShmFormatAbgr8888:
		return screen.ABGR8888, true
	case protocol.WlShmFormatXbgr8888:
		return screen.XBGR8888, true
	}
	return 0, false
}

// shmResource is wl_shm.
type shmResource struct{}

func shmFormats(o *object) {
	for _, f := range []uint32{protocol.WlShmFormatArgb8888, protocol.WlShmFormatXrgb8888,
		protocol.WlShmFormatAbgr8888, protocol.WlShmFormatXbgr8888} {
		o.send(protocol.WlShmEventFormat, wire.Uint(f))
	}
}

func (shmResource) gone(*object) {}

func (shmResource) request(o *object, op int, args []wire.Value) error {
	id, size := args[0].ID(), args[2].Int()
	c := o.c
	if size <= 0 {
		return o.errorf(protocol.WlShmErrorInvalidStride, "pool of %d bytes", size)
	}
	if c.pools >= maxPools || len(c.s.pools) >= maxAllPools {
		return c.display.errorf(protocol.WlDisplayErrorNoMemory, "more than %d pools", maxPools)
	}
	p, err := newPool(args[1].FD(), int(size))
	if err != nil {
		return o.errorf(protocol.WlShmErrorInvalidFd, "%v", err)
	}
	args[1].TakeFD()
	p.c = c
	c.pools++
	c.s.pools[p] = struct{}{}
	o.make(id, protocol.WlShmPool, &poolResource{p})
	return nil
}

// poolResource is wl_shm_pool. The pool lives on while it has buffers.
type poolResource struct{ pool *pool }

func (r *poolResource) gone(*object) { r.pool.release() }

func (r *poolResource) request(o *object, op int, args []wire.Value) error {
	switch op {
	case protocol.WlShmPoolRequestCreateBuffer:
		return r.createBuffer(o, args)
	case protocol.WlShmPoolRequestResize:
		if err := r.pool.resize(int(args[0].Int())); err != nil {
			return o.errorf(protocol.WlShmErrorInvalidFd, "%v", err)
		}
	}
	return nil
}

// createBuffer makes a wl_buffer. All sums are done in 64 bits.
func (r *poolResource) createBuffer(o *object, args []wire.Value) error {
	offset, width, height, stride := int64(args[1].Int()), int64(args[2].Int()), int64(args[3].Int()), int64(args[4].Int())
	format, ok := formatOf(args[5].Uint())
	if !ok {
		return o.errorf(protocol.WlShmErrorInvalidFormat, "format %#x", args[5].Uint())
	}
	if offset < 0 || width <= 0 || height <= 0 || stride < width*4 || offset+stride*(height-1)+width*4 > int64(r.pool.size) {
		return o.errorf(protocol.WlShmErrorInvalidStride, "buffer of %dx%d pixels, stride %d, at %d of a pool of %d bytes",
			width, height, stride, offset, r.pool.size)
	}
	b := &buffer{pool: r.pool, offset: int(offset), width: int(width), height: int(height), stride: int(stride), format: format}
	r.pool.refs++
	b.o = o.make(args[0].ID(), protocol.WlBuffer, b)
	return nil
}

// buffer is wl_buffer: a rectangle of pixels in a pool. Its bounds lie within the pool, which never shrinks.
type buffer struct {
	o      *object
	pool   *pool
	offset int
	width  int
	height int
	stride int
	format screen.Format
	dead   bool // destroyed by the client
}

func (b *buffer) request(*object, int, []wire.Value) error { return nil }

func (b *buffer) gone(*object) {
	b.dead = true
	b.pool.release()
}

func (b *buffer) size() image.Point { return image.Pt(b.width, b.height) }

// alpha tells whether the format has an alpha channel.
func (b *buffer) alpha() bool { return b.format == screen.ARGB8888 || b.format == screen.ABGR8888 }

// swapped tells whether red and blue are the other way round than in pictures.
func (b *buffer) swapped() bool { return b.format == screen.XBGR8888 || b.format == screen.ABGR8888 }
