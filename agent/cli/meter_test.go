package cli

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

func TestTimeLineOfARecording(t *testing.T) {
	start := time.Unix(1000, 0)
	ms := func(n int64) int64 { return start.UnixNano() + n*int64(time.Millisecond) }
	tests := []struct {
		name   string
		packet *phonehostv1.Packet
		lost   bool // before the packet
		want   time.Duration
	}{
		{"the first shows what stood for a minute", &phonehostv1.Packet{Frame: 7, CommitTimeNs: ms(-60000), EncodeStartTimeNs: ms(0)}, false, 0},
		{"a new frame", &phonehostv1.Packet{Frame: 8, CommitTimeNs: ms(100), EncodeStartTimeNs: ms(101)}, false, 100 * time.Millisecond},
		{"the same at better quality", &phonehostv1.Packet{Frame: 8, CommitTimeNs: ms(100), EncodeStartTimeNs: ms(300)}, false, 300 * time.Millisecond},
		{"a clock that went back", &phonehostv1.Packet{Frame: 9, CommitTimeNs: ms(200), EncodeStartTimeNs: ms(201)}, false, 300*time.Millisecond + time.Microsecond},
		{"a new display, counting anew", &phonehostv1.Packet{Frame: 9, CommitTimeNs: ms(350), EncodeStartTimeNs: ms(400)}, true, 400 * time.Millisecond},
	}
	m := newMeter(&phonehostv1.Attached{MaxFps: 10})
	for i, tt := range tests {
		if tt.lost {
			m.lost()
		}
		tt.packet.EncodeEndTimeNs = tt.packet.EncodeStartTimeNs + 5e6
		tt.packet.Data = make([]byte, 100)
		if got := m.packet(tt.packet, start.Add(time.Duration(i)*100*time.Millisecond)); got != tt.want {
			t.Errorf("%s: at %v, want %v", tt.name, got, tt.want)
		}
	}
	if got, want := m.end(start.Add(400*time.Millisecond)), 500*time.Millisecond; got != want {
		t.Errorf("the last frame ends at %v, want %v: it stands a tenth of a second at least", got, want)
	}
	if got, want := m.end(start.Add(1400*time.Millisecond)), 1400*time.Millisecond; got != want {
		t.Errorf("the last frame ends at %v, want %v: it stands until the end", got, want)
	}
	want := render.Recording{
		Frames: 5, Bytes: 500, Seconds: 0.5, FramesPerSecond: 10, BitrateKbps: 8, DisplayLosses: 1,
		// Only the two new frames count: committed 1 ms before encoding, and arrived at 100 and at 300 ms.
		CommitToEncoded:               &render.Quantiles{P50: 6, P99: 6, Max: 6, Samples: 2},
		Encoding:                      &render.Quantiles{P50: 5, P99: 5, Max: 5, Samples: 2},
		CommitToViewer:                &render.Quantiles{P50: 0, P99: 100, Max: 100, Samples: 2},
		CommitToViewerWithoutEncoding: &render.Quantiles{P50: -5, P99: 95, Max: 95, Samples: 2},
	}
	if diff := cmp.Diff(want, m.summary()); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
}

func TestQuantiles(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i)*time.Millisecond)
	}
	tests := []struct {
		name    string
		samples []time.Duration
		want    *render.Quantiles
	}{
		{"none", nil, nil},
		{"one", []time.Duration{7 * time.Millisecond}, &render.Quantiles{P50: 7, P99: 7, Max: 7, Samples: 1}},
		{"a hundred, unsorted", hundred, &render.Quantiles{P50: 50, P99: 99, Max: 100, Samples: 100}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, quantiles(tt.samples)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
