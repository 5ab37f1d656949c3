package level

import (
	"context"
	"fmt"
	"time"

	"github.com/phonehost/phonehost/encoder/convert"
	"github.com/phonehost/phonehost/encoder/h264"
	"github.com/phonehost/phonehost/encoder/screen"
)

// stream is the state of a level's goroutine.
type stream struct {
	*Level
	encoder Encoder
	checker *h264.Checker
	reader  *screen.Reader
	convert func(screen.View) // made once, so that frames allocate nothing

	credit   int
	interval time.Duration // between frames
	next     time.Time     // when the next frame may be encoded
	changed  bool          // the screen differs from the last packet
	key      bool          // a key frame is owed
	refresh  h264.Quality  // quality of the next refreshing frame; Normal when none is owed
	settled  time.Time     // when the next refreshing frame is due

	packet  Packet // what the last Read saw
	picture convert.Picture
	buffer  []byte
	damaged bool
}

// run is the level's goroutine.
func (l *Level) run(ctx context.Context) {
	w, h := l.config.Screen.Width()&^1, l.config.Screen.Height()&^1
	encoder, err := l.config.Open(w, h, l.config.FPS, l.config.Kbps)
	if err != nil {
		l.config.Opened(Info{}, err)
		return
	}
	defer encoder.Close()
	reader := l.config.Screen.NewReader()
	defer reader.Close()
	s := &stream{
		Level: l, encoder: encoder, reader: reader, checker: h264.NewChecker(w, h),
		interval: time.Second / time.Duration(l.config.FPS), key: true,
	}
	s.convert = s.look
	l.config.Opened(Info{Encoder: encoder.Name(), Width: w, Height: h}, nil)
	if err := s.loop(ctx); err != nil {
		l.config.Failed(err)
	}
}

// loop encodes when it may and waits when it may not, until the context ends or the encoder fails.
func (s *stream) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		s.takeOrders()
		wait, run := s.plan(time.Now())
		if run && wait <= 0 {
			if ctx.Err() != nil {
				return nil
			}
			if err := s.frame(); err != nil {
				return err
			}
			continue
		}
		timer.Stop()
		if run {
			timer.Reset(wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-s.reader.Changed():
			s.changed = true
		case <-timer.C:
		}
	}
}

// takeOrders moves what callers asked for into the stream.
func (s *stream) takeOrders() {
	s.mu.Lock()
	o := s.orders
	s.orders = orders{kbps: o.kbps, fps: o.fps}
	s.mu.Unlock()
	s.credit = min(s.credit+o.credit, maxCredit)
	s.key = s.key || o.key
	if o.rate {
		s.interval = time.Second / time.Duration(o.fps)
		s.encoder.SetRate(o.kbps, o.fps)
	}
}

// plan tells whether there is a frame to encode, and how long from now.
func (s *stream) plan(now time.Time) (wait time.Duration, run bool) {
	switch {
	case s.credit == 0:
		return 0, false
	case s.changed || s.key:
		return s.next.Sub(now), true
	case s.refresh != h264.Normal:
		return max(s.settled.Sub(now), s.next.Sub(now)), true
	}
	return 0, false
}

// frame encodes and delivers one packet, unless it turns out that nothing differs.
func (s *stream) frame() (err error) {
	start := time.Now()
	if s.picture, err = s.encoder.Picture(); err != nil {
		return err
	}
	s.reader.Read(s.convert)
	s.changed = false
	quality := h264.Normal
	switch {
	case s.damaged || s.key:
		s.refresh, s.settled = h264.Slack, start.Add(RefreshAfter)
	case s.refresh == h264.Slack && !start.Before(s.settled):
		quality, s.refresh = h264.Slack, h264.Fine
	case s.refresh == h264.Fine:
		quality, s.refresh = h264.Fine, h264.Normal
	default:
		return nil
	}
	return s.encode(start, quality)
}

// look converts what differs; it runs under the screen's mutex.
func (s *stream) look(v screen.View) {
	s.packet.Frame, s.packet.CommitTime = v.Frame, v.CommitTime
	if s.damaged = len(v.Damage) > 0; s.damaged {
		convert.BGRX(s.picture, v.Pix, v.Stride, v.Damage)
		s.converted.Add(1)
	}
}

// encode makes a packet of the picture and delivers it.
func (s *stream) encode(start time.Time, quality h264.Quality) error {
	data, _, err := s.encoder.Encode(s.buffer[:0], quality, s.key)
	if err != nil {
		return err
	}
	s.buffer = data
	s.encoded.Add(1)
	p := s.packet
	if p.Data, p.Key, err = s.checker.Check(data); err != nil {
		return fmt.Errorf("packet of %s: %w", s.encoder.Name(), err)
	}
	p.EncodeStart, p.EncodeEnd = start, time.Now()
	// A frame may come half an interval early, so that a guest whose clock trembles does not lose every second frame. And the
	// allowance runs a twentieth faster than the rate: were they equal, a guest that draws at just this rate would keep for ever
	// the wait that two frames in quick succession had brought it.
	s.next = later(s.next, start.Add(-s.interval/2)).Add(s.interval - s.interval/20)
	s.key = s.key && !p.Key
	s.credit--
	s.config.Packet(p)
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
