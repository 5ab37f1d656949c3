package stream_test

import (
	"fmt"
	"testing"

	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/display/displaytest"
	"github.com/phonehost/phonehost/agent/stream"
)

// on is a host whose phones are all on.
type on struct{}

func (on) CheckOn(string) error { return nil }

// BenchmarkFanOut measures the way of a packet of 17 kB (4 Mbit/s at 30 frames a second) from the display's commit through
// its socket to all viewers, credit included. An operation is a frame.
func BenchmarkFanOut(b *testing.B) {
	for _, viewers := range []int{1, 8} {
		b.Run(fmt.Sprintf("viewers=%d", viewers), func(b *testing.B) {
			dir := b.TempDir()
			d := &displaytest.Server{PacketSize: 17_000}
			if err := d.Listen(dir, "p1"); err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			displays, err := display.NewRegistry(display.Config{Dir: dir})
			if err != nil {
				b.Fatal(err)
			}
			defer displays.Shutdown()
			if err := displays.WaitReady(b.Context(), "p1"); err != nil {
				b.Fatal(err)
			}
			hub, err := stream.NewHub(stream.Config{Displays: displays, Phones: on{}})
			if err != nil {
				b.Fatal(err)
			}
			defer hub.Shutdown()
			all := make([]*stream.Viewer, viewers)
			for i := range all {
				if all[i], err = hub.Attach(b.Context(), stream.AttachOptions{Phone: "p1"}); err != nil {
					b.Fatal(err)
				}
				defer all[i].Close(nil)
			}
			b.SetBytes(17_000)
			b.ReportAllocs()
			for b.Loop() {
				d.Commit()
				for _, v := range all {
					m, err := v.Next(b.Context())
					if err != nil {
						b.Fatal(err)
					}
					if err := v.Ack(m.Packet.Seq); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
