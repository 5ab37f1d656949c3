package wayland

import (
	"errors"
	"fmt"
	"image"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poolIdle is how long a mapping outlives its last use.
const poolIdle = 2 * time.Second

// scratchSize is about how much is read at once from a pool that is not mapped.
const scratchSize = 256 << 10

var errFault = errors.New("memory of the pool went away while it was read")

// pool is memory that a guest shares. Only shared memory files are taken (memfd, shm_open, a file on tmpfs): reading any
// other can block for as long as its file system likes.
//
// A pool is mapped while it is used if it is sealed against shrinking, which the server does where the guest allows it, and
// if all of it is allocated; any other is read with pread. For truncating a file faults whoever reads a mapping of it, and
// reading a hole of it by a mapping allocates a page on the server's account.
type pool struct {
	c       *client
	fd      int
	size    int // bytes; what the client said, at most what the file has
	refs    int // its wl_shm_pool and its buffers
	sealed  bool
	mapped  []byte
	lastUse time.Time
}

// newPool checks a descriptor, which the pool owns only if there is no error.
func newPool(fd, size int) (*pool, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return nil, fmt.Errorf("file system of the pool: %w", err)
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return nil, fmt.Errorf("the pool is not shared memory (file system %#x)", fs.Type)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("flags of the pool: %w", err)
	}
	if flags&unix.O_PATH != 0 || flags&unix.O_ACCMODE == unix.O_WRONLY {
		return nil, errors.New("the pool is not readable")
	}
	p := &pool{fd: fd, refs: 1}
	if err := p.resize(size); err != nil {
		return nil, err
	}
	p.sealed = seal(fd)
	return p, nil
}

// seal makes the file unable to shrink and tells whether it is.
func seal(fd int) bool {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return false
	}
	if seals&unix.F_SEAL_SHRINK != 0 {
		return true
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK)
	return err == nil
}

// resize takes a new size, which is not smaller and not more than the file has.
func (p *pool) resize(size int) error {
	if size <= 0 || size < p.size {
		return fmt.Errorf("pool of %d bytes cannot become %d", p.size, size)
	}
	var st unix.Stat_t
	if err := unix.Fstat(p.fd, &st); err != nil {
		return fmt.Errorf("size of the pool: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("the pool is not a file")
	}
	if int64(size) > st.Size {
		return fmt.Errorf("pool of %d bytes in a file of %d", size, st.Size)
	}
	p.unmap()
	p.size = size
	return nil
}

// release gives up one reference, and the pool with the last.
func (p *pool) release() {
	if p.refs--; p.refs > 0 {
		return
	}
	p.unmap()
	unix.Close(p.fd)
	p.c.pools--
	delete(p.c.s.pools, p)
}

func (p *pool) unmap() {
	if p.mapped != nil {
		_ = unix.Munmap(p.mapped)
		p.mapped = nil
	}
}

// mapping returns the memory of the pool, or nil when it must be read with pread.
func (p *pool) mapping() []byte {
	if !p.sealed {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(p.fd, &st); err != nil || st.Blocks*512 < int64(p.size) || st.Size < int64(p.size) {
		p.unmap()
		return nil
	}
	p.lastUse = time.Now()
	if p.mapped == nil {
		m, err := unix.Mmap(p.fd, 0, p.size, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return nil
		}
		p.mapped = m
		p.c.s.wakeClock()
	}
	return p.mapped
}

// each calls draw with the pixels of r, a rectangle within the buffer, in one or more bands of whole rows: the rectangle of
// the band, its bytes from its first pixel on, and its stride. It returns an error when the pool cannot be read; some bands
// have been drawn then. The calling goroutine must have debug.SetPanicOnFault.
func (b *buffer) each(r image.Rectangle, draw func(r image.Rectangle, src []byte, stride int)) (err error) {
	if r.Empty() {
		return nil
	}
	start := b.offset + r.Min.Y*b.stride + r.Min.X*4
	if m := b.pool.mapping(); m != nil {
		defer recoverFault(m, &err)
		end := start + (r.Dy()-1)*b.stride + r.Dx()*4
		draw(r, m[start:end:end], b.stride)
		return nil
	}
	s := b.pool.c.s
	row := r.Dx() * 4
	stride, rows := b.stride, max((scratchSize-row)/b.stride+1, 1)
	if b.stride > 2*row { // mostly gaps: only the pixels
		stride, rows = row, 1
	}
	if need := (rows-1)*stride + row; len(s.scratch) < need {
		s.scratch = make([]byte, need)
	}
	for y := r.Min.Y; y < r.Max.Y; y += rows {
		band := image.Rect(r.Min.X, y, r.Max.X, min(y+rows, r.Max.Y))
		buf := s.scratch[:(band.Dy()-1)*stride+row]
		if err := readAt(b.pool.fd, buf, int64(start+(y-r.Min.Y)*b.stride)); err != nil {
			return err
		}
		draw(band, buf, stride)
	}
	return nil
}

// recoverFault turns a fault within m into an error. Any other panic goes on.
func recoverFault(m []byte, err *error) {
	switch fault := recover().(type) {
	case nil:
	case interface {
		runtime.Error
		Addr() uintptr
	}:
		base := uintptr(unsafe.Pointer(unsafe.SliceData(m)))
		if at := fault.Addr(); at < base || at >= base+uintptr(len(m)) {
			panic(fault)
		}
		*err = errFault
	default:
		panic(fault)
	}
}

// readAt fills buf from the file, or tells that the file is shorter.
func readAt(fd int, buf []byte, at int64) error {
	for len(buf) > 0 {
		n, err := unix.Pread(fd, buf, at)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("read the pool: %w", err)
		case n == 0:
			return errors.New("the pool's file was truncated")
		default:
			buf, at = buf[n:], at+int64(n)
		}
	}
	return nil
}

// unmapIdle unmaps pools that have not been used for poolIdle, and returns when the next one is due; zero for never.
func (s *Server) unmapIdle(now time.Time) (next time.Time) {
	for p := range s.pools {
		if p.mapped == nil {
			continue
		}
		due := p.lastUse.Add(poolIdle)
		if !due.After(now) {
			p.unmap()
		} else if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return next
}
