package cli

import (
	"math"
	"slices"
	"time"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// meter measures a stream packet by packet, and places each on the recording's time line. It is used by one goroutine.
type meter struct {
	width, height, maxFPS uint32
	encoder               string

	frames, keys, bytes uint64
	losses              int
	last                time.Time     // arrival of the newest
	origin              int64         // host's time of the first packet, ns
	at                  time.Duration // place of the newest packet on the time line
	frame               uint64        // number of the newest frame
	fresh               bool          // the next packet starts a run: at attaching, or after a loss

	toViewer, toEncoded, encoding, beside []time.Duration
}

func newMeter(attached *phonehostv1.Attached) *meter {
	return &meter{
		width: attached.GetWidth(), height: attached.GetHeight(), maxFPS: attached.GetMaxFps(),
		encoder: attached.GetEncoder(), fresh: true,
	}
}

// packet counts a packet and returns its place on the time line, which begins at 0 and grows with every packet.
//
// A frame's place is when it was committed. The first packet of a run, and one that shows an old frame again (at better
// quality, or as the key frame that somebody asked for), is placed where it was encoded: its frame may have stood for
// minutes. Such packets say nothing about the way from commit to viewer and stay out of the latencies.
func (m *meter) packet(p *phonehostv1.Packet, arrived time.Time) time.Duration {
	isNew := !m.fresh && p.GetFrame() != m.frame
	shown := p.GetCommitTimeNs()
	if !isNew {
		shown = p.GetEncodeStartTimeNs()
	}
	if m.frames == 0 {
		m.origin = shown
	} else {
		m.at = m.refresh(time.Duration(shown - m.origin))
	}
	if isNew {
		viewer := time.Duration(arrived.UnixNano() - p.GetCommitTimeNs())
		encoding := time.Duration(p.GetEncodeEndTimeNs() - p.GetEncodeStartTimeNs())
		m.toViewer = append(m.toViewer, viewer)
		m.toEncoded = append(m.toEncoded, time.Duration(p.GetEncodeEndTimeNs()-p.GetCommitTimeNs()))
		m.encoding = append(m.encoding, encoding)
		m.beside = append(m.beside, viewer-encoding)
	}
	m.fresh, m.frame, m.last = false, p.GetFrame(), arrived
	m.frames++
	m.bytes += uint64(len(p.GetData()))
	if p.GetKey() {
		m.keys++
	}
	return m.at
}

// catchUp is how many frames the time line may be ahead of the commits before it makes up for it.
const catchUp = 4

// refresh returns the refresh of the screen that a frame is shown at: the one nearest to its commit, and later than that of
// the frame before. Guests commit some milliseconds early or late; on a screen, and in players that take a recording for
// one of a constant rate, frames last whole refreshes.
func (m *meter) refresh(committed time.Duration) time.Duration {
	fps := int64(max(1, m.maxFPS))
	period := time.Second / time.Duration(fps)
	slot := int64(math.Round(committed.Seconds() * float64(fps)))
	nearest := time.Duration(slot) * time.Second / time.Duration(fps)
	if ahead := m.at - nearest; ahead > catchUp*period {
		return m.at + period/2
	}
	// The slot after the newest frame's, counted anew so that roundings do not add up.
	next := int64(math.Round(m.at.Seconds()*float64(fps))) + 1
	return max(nearest, time.Duration(next)*time.Second/time.Duration(fps))
}

// lost tells that the display is gone: the next packet starts a new run of frame numbers.
func (m *meter) lost() {
	m.losses++
	m.fresh = true
}

// end returns where the time line ends: the last picture stands until now, and one frame at least.
func (m *meter) end(now time.Time) time.Duration {
	if m.frames == 0 {
		return 0
	}
	return max(m.at+time.Second/time.Duration(max(1, m.maxFPS)), m.at+now.Sub(m.last))
}

// summary returns the figures.
func (m *meter) summary() render.Recording {
	seconds := 0.0
	if m.frames > 0 {
		seconds = (m.at + time.Second/time.Duration(max(1, m.maxFPS))).Seconds()
	}
	r := render.Recording{
		Encoder: m.encoder, Width: m.width, Height: m.height, Frames: m.frames, KeyFrames: m.keys, Bytes: m.bytes,
		Seconds: round(seconds), DisplayLosses: m.losses,
		CommitToViewer: quantiles(m.toViewer), CommitToEncoded: quantiles(m.toEncoded),
		Encoding: quantiles(m.encoding), CommitToViewerWithoutEncoding: quantiles(m.beside),
	}
	if seconds > 0 {
		r.FramesPerSecond = round(float64(m.frames) / seconds)
		r.BitrateKbps = round(float64(m.bytes) * 8 / 1000 / seconds)
	}
	return r
}

// quantiles returns nil for no samples.
func quantiles(samples []time.Duration) *render.Quantiles {
	if len(samples) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(samples))
	rank := func(q float64) float64 { // nearest rank
		return round(sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)].Seconds() * 1000)
	}
	return &render.Quantiles{P50: rank(0.5), P99: rank(0.99), Max: rank(1), Samples: len(sorted)}
}

// round keeps three decimals.
func round(v float64) float64 { return math.Round(v*1000) / 1000 }
