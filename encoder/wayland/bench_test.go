package wayland

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/encoder/wayland/protocol"
)

// BenchmarkCommit is what one frame of a phone's composer costs: the whole of 720x1280 pixels attached, damaged and committed,
// and its release read back.
func BenchmarkCommit(b *testing.B) {
	for name, tt := range map[string]struct {
		changed bool
		flags   int
	}{
		"unchanged":       {false, unix.MFD_ALLOW_SEALING},
		"changed":         {true, unix.MFD_ALLOW_SEALING},
		"unchanged/pread": {false, 0},
		"changed/pread":   {true, 0},
	} {
		b.Run(name, func(b *testing.B) {
			sc, err := screen.New(720, 1280)
			if err != nil {
				b.Fatal(err)
			}
			s := serve(b, Config{Screen: sc})
			p := connect(b, s)
			w := p.window()
			var buffers [2]uint32
			for i := range buffers {
				m := newMemory(b, 720*1280*4, tt.flags)
				if m.fill(0xff102030); tt.changed && i == 1 {
					m.fill(0xff302010)
				}
				buffers[i] = p.buffer(p.pool(m), 0, 720, 1280, 720*4, protocol.WlShmFormatArgb8888)
			}
			for i := range 4 {
				p.show(w.surface, buffers[i%2])
				p.roundtrip()
			}
			b.SetBytes(720 * 1280 * 4)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				p.show(w.surface, buffers[i%2])
				p.until(func(e event) bool { return e.name == "wl_buffer.release" })
				p.events = p.events[:0]
				i++
			}
		})
	}
}
