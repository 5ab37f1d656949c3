package wayland

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/encoder/wayland/protocol"
)

// TestBufferBounds has clients lie about the place of a buffer in its pool.
func TestBufferBounds(t *testing.T) {
	tests := map[string][4]int32{ // offset, width, height, stride
		"fits":              {0, 16, 16, 64},
		"fits at the end":   {4096 - 64*16, 16, 16, 64},
		"last row is short": {0, 4, 64, 64},
		"offset negative":   {-4, 1, 1, 4},
		"offset beyond":     {4096, 1, 1, 4},
		"width zero":        {0, 0, 1, 4},
		"height zero":       {0, 1, 0, 4},
		"width negative":    {0, -1, 1, 4},
		"height negative":   {0, 1, -1, 4},
		"stride short":      {0, 16, 1, 60},
		"stride negative":   {0, 1, 1, -4},
		"a row too many":    {0, 16, 65, 64},
		"product overflows": {0, 1, math.MaxInt32, math.MaxInt32},
		"width overflows":   {0, 0x40000000, 1, 4},
		"sum overflows":     {math.MaxInt32, 1, 2, math.MaxInt32},
	}
	s := serve(t, Config{})
	for name, v := range tests {
		t.Run(name, func(t *testing.T) {
			p := connect(t, s)
			pool := p.pool(newMemory(t, 4096, 0))
			b := p.buffer(pool, int(v[0]), int(v[1]), int(v[2]), int(v[3]), 0)
			if strings.HasPrefix(name, "fits") || strings.HasPrefix(name, "last") {
				w := p.window()
				p.show(w.surface, b)
				p.roundtrip()
				return
			}
			p.wantError(pool, protocol.WlShmErrorInvalidStride)
		})
	}
}

// TestTruncatedPool has a client truncate its pool, which must not kill the server whatever it was made of.
func TestTruncatedPool(t *testing.T) {
	s := serve(t, Config{})
	honest := connect(t, s)
	shm := func() *os.File {
		f, err := os.Create(filepath.Join("/dev/shm", t.Name()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close(); os.Remove(f.Name()) })
		return f
	}
	for name, file := range map[string]func() *os.File{
		"memfd that cannot be sealed": func() *os.File { return newMemory(t, 1, 0).file },
		"file in shared memory":       shm,
	} {
		t.Run(name, func(t *testing.T) {
			p := connect(t, s)
			w := p.window()
			m := &memory{file: file(), pix: make([]byte, testWidth*testHeight*4)}
			if _, err := m.file.WriteAt(m.pix, 0); err != nil {
				t.Fatal(err)
			}
			b := p.buffer(p.pool(m), 0, testWidth, testHeight, testWidth*4, 0)
			p.show(w.surface, b)
			p.roundtrip()
			if err := m.file.Truncate(5000); err != nil {
				t.Fatal(err)
			}
			p.show(w.surface, b)
			p.wantError(b, protocol.WlShmErrorInvalidFd)
			honest.t = t
			honest.roundtrip()
		})
	}
}

// TestHolesAreNotFilled has a client share a file without pages: reading it must not allocate them on the server's account.
func TestHolesAreNotFilled(t *testing.T) {
	s := serve(t, Config{})
	p := connect(t, s)
	w := p.window()
	fd, err := unix.MemfdCreate("sparse", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{file: os.NewFile(uintptr(fd), "sparse"), pix: make([]byte, testWidth*testHeight*4)}
	defer m.file.Close()
	if err := m.file.Truncate(int64(len(m.pix))); err != nil {
		t.Fatal(err)
	}
	p.show(w.surface, p.buffer(p.pool(m), 0, testWidth, testHeight, testWidth*4, 0))
	p.roundtrip()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Blocks != 0 {
		t.Errorf("the file has %d blocks (%v), want none", st.Blocks, err)
	}
}

// TestFaultWhileCopying takes the memory away under the copy itself.
func TestFaultWhileCopying(t *testing.T) {
	s := serve(t, Config{})
	p := connect(t, s)
	w := p.window()
	_, b := p.picture(testWidth, testHeight, 0xff0000ff)
	p.show(w.surface, b)
	p.roundtrip()
	s.mu.Lock()
	for pool := range s.pools {
		if pool.mapped == nil {
			t.Error("the pool is not mapped")
		}
		if err := unix.Mprotect(pool.mapped, unix.PROT_NONE); err != nil {
			t.Error(err)
		}
	}
	s.mu.Unlock()
	p.show(w.surface, b)
	p.wantError(b, protocol.WlShmErrorInvalidFd)
	connect(t, s).window()
}
