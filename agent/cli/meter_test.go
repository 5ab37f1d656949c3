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
		{"a new frame, a little late", &phonehostv1.Packet{Frame: 8, CommitTimeNs: ms(120), EncodeStartTimeNs: ms(121)}, false, 100 * time.Millisecond},
		{"the same at better quality", &phonehostv1.Packet{Frame: 8, CommitTimeNs: ms(120), EncodeStartTimeNs: ms(280)}, false, 300 * time.Millisecond},
		{"a clock that went back", &phonehostv1.Packet{Frame: 9, CommitTimeNs: ms(200), EncodeStartTimeNs: ms(201)}, false, 400 * time.Millisecond},
		{"a new display, counting anew", &phonehostv1.Packet{Frame: 9, CommitTimeNs: ms(450), EncodeStartTimeNs: ms(500)}, true, 500 * time.Millisecond},
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
	if got, want := m.end(start.Add(400*time.Millisecond)), 600*time.Millisecond; got != want {
		t.Errorf("the last frame ends at %v, want %v: it stands a tenth of a second at least", got, want)
	}
	if got, want := m.end(start.Add(1400*time.Millisecond)), 1500*time.Millisecond; got != want {
		t.Errorf("the last frame ends at %v, want %v: it stands until the end", got, want)
	}
	want := render.Recording{
		Frames: 5, Bytes: 500, Seconds: 0.6, FramesPerSecond: 8.333, BitrateKbps: 6.667, DisplayLosses: 1,
		// Only the two new frames count: committed 1 ms before encoding, and arrived 20 ms too early and 100 ms later.
		CommitToEncoded:               &render.Quantiles{P50: 6, P99: 6, Max: 6, Samples: 2},
		Encoding:                      &render.Quantiles{P50: 5, P99: 5, Max: 5, Samples: 2},
		CommitToViewer:                &render.Quantiles{P50: -20, P99: 100, Max: 100, Samples: 2},
		CommitToViewerWithoutEncoding: &render.Quantiles{P50: -25, P99: 95, Max: 95, Samples: 2},
	}
	if diff := cmp.Diff(want, m.summary()); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
}

func TestTimeLineDoesNotRunAwayFromFastGuests(t *testing.T) {
	m := newMeter(&phonehostv1.Attached{MaxFps: 30})
	// 40 frames a second, although 30 are the most: the line of whole refreshes would be a third too long.
	last := time.Duration(-1)
	for i := range int64(400) {
		committed := 1e18 + i*25e6
		at := m.packet(&phonehostv1.Packet{Frame: uint64(i + 1), CommitTimeNs: committed, EncodeStartTimeNs: committed}, time.Unix(0, committed))
		if at <= last {
			t.Fatalf("frame %d is at %v, the one before at %v", i, at, last)
		}
		last = at
	}
	if want := 399 * 25 * time.Millisecond; (last - want).Abs() > time.Second/5 {
		t.Errorf("the last frame is at %v, was committed at %v", last, want)
	}
}

func TestTimeLineOfAJitteryGuestIsEven(t *testing.T) {
	m := newMeter(&phonehostv1.Attached{MaxFps: 30})
	jitter := []int64{0, 9e6, -7e6, 15e6, -15e6, 3e6, 0, -11e6}
	for i := range int64(3000) {
		committed := 1e18 + i*1e9/30
		if i > 0 {
			committed += jitter[i%int64(len(jitter))]
		}
		at := m.packet(&phonehostv1.Packet{Frame: uint64(i + 1), CommitTimeNs: committed, EncodeStartTimeNs: committed}, time.Unix(0, committed))
		if want := time.Duration(i) * time.Second / 30; at != want {
			t.Fatalf("frame %d is at %v, want %v", i, at, want)
		}
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
