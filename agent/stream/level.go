package stream

import (
	"time"

	"github.com/phonehost/phonehost/agent/display"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

const (
	// keyInterval is the least time between two key frames that are asked for on behalf of one viewer.
	keyInterval = time.Second
	// keyPatience is how many other packets may come after a key frame was asked for before it may be asked for again.
	keyPatience = 3
	// defaultKbps is the rate of a level that nobody chose a rate for.
	defaultKbps = 4000
)

// level is one encoder and the viewers that share it. All of it is guarded by screen.mu.
type level struct {
	screen  *screen
	fps     uint32
	kbps    uint32
	viewers map[*Viewer]struct{}

	open       *display.Level // nil while there is no encoder
	turn       int            // counts the encoders, so that a late packet of one before is known
	packets    uint64         // of this encoder
	credit     bool           // a packet is allowed and has not come
	keyPending bool           // a key frame is on its way
	others     int            // packets that came instead since it was asked for
	due        time.Time      // when the keeper will ask for a key frame; zero for never
}

// levelFor returns the screen's level of a frame rate, made if need be.
func (s *screen) levelFor(fps, kbps uint32) *level {
	l := s.levels[fps]
	if l == nil {
		l = &level{screen: s, fps: fps, kbps: defaultKbps, viewers: make(map[*Viewer]struct{})}
		s.levels[fps] = l
	}
	if kbps != 0 {
		l.setRate(kbps)
	}
	return l
}

// open starts the level's encoder on the present connection. Only the keeper calls it.
func (s *screen) open(l *level) {
	s.mu.Lock()
	conn := s.conn
	if conn == nil {
		s.mu.Unlock()
		return
	}
	l.turn++
	turn, kbps := l.turn, l.kbps
	s.mu.Unlock()

	opened, err := conn.OpenLevel(s.ctx, display.LevelConfig{
		BitrateKbps: kbps,
		MaxFPS:      min(l.fps, conn.Hello().FPS),
		OnPacket:    func(p *displayv1.VideoPacket) { l.deliver(turn, p) },
		OnFailed:    func(reason string) { l.failed(turn, reason) },
	})

	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if s.conn == conn && conn.Err() == nil && s.ctx.Err() == nil {
			s.hub.log.Warn("level refused", "phone_id", s.phone, "error", err)
			l.fail(s.encoderFailed(err.Error()))
		}
		return
	}
	if s.conn != conn || s.levels[l.fps] != l || s.ctx.Err() != nil {
		opened.Close()
		return
	}
	l.start(opened, kbps)
}

// start takes an encoder that was opened with a rate. Its first packet is a key frame.
func (l *level) start(opened *display.Level, kbps uint32) {
	l.open, l.packets, l.credit = opened, 0, false
	l.keyPending, l.others = true, 0
	l.screen.hub.levels.Add(1)
	l.screen.hub.log.Info("level opened", "phone_id", l.screen.phone, "fps", l.fps, "kbps", l.kbps, "encoder", opened.Encoder)
	if l.kbps != kbps {
		_ = opened.SetRate(l.kbps) // an error means that the connection has ended, which is told in its own way
	}
	for v := range l.viewers {
		v.levelOpened(opened)
	}
	l.pump(time.Now())
}

// shut forgets the encoder, which has ended.
func (l *level) shut() {
	if l.open != nil {
		l.open = nil
		l.screen.hub.levels.Add(-1)
	}
	l.turn++
	l.credit, l.keyPending = false, false
	for v := range l.viewers {
		v.needKey = true
	}
}

// close ends the encoder.
func (l *level) close() {
	if l.open != nil {
		l.open.Close()
		l.screen.hub.log.Info("level closed", "phone_id", l.screen.phone, "fps", l.fps, "packets", l.packets)
	}
	l.shut()
}

// failed takes word that the encoder ended by itself. One that never made a packet is not tried again.
func (l *level) failed(turn int, reason string) {
	s := l.screen
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.turn != turn || l.open == nil {
		return
	}
	s.hub.log.Warn("level failed", "phone_id", s.phone, "fps", l.fps, "reason", reason)
	useless := l.packets == 0
	l.shut()
	if useless {
		l.fail(s.encoderFailed(reason))
		return
	}
	s.wakeKeeper()
}

// fail ends the level and its viewers.
func (l *level) fail(cause error) {
	if l.screen.levels[l.fps] == l {
		delete(l.screen.levels, l.fps)
	}
	l.close()
	for v := range l.viewers {
		v.finish(cause)
	}
}

// leave takes a viewer off the level; the last one closes it.
func (l *level) leave(v *Viewer) {
	delete(l.viewers, v)
	if len(l.viewers) == 0 && l.screen.levels[l.fps] == l {
		delete(l.screen.levels, l.fps)
		l.close()
		return
	}
	l.pump(time.Now())
}

// setRate changes the rate for all viewers.
func (l *level) setRate(kbps uint32) {
	if l.kbps == kbps {
		return
	}
	l.kbps = kbps
	if l.open != nil {
		_ = l.open.SetRate(kbps) // an error means that the connection has ended, which is told in its own way
	}
}

// deliver gives a packet to the viewers that can take it. The reader of the display's connection calls it.
func (l *level) deliver(turn int, p *displayv1.VideoPacket) {
	s := l.screen
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.turn != turn || l.open == nil {
		return
	}
	now := time.Now()
	l.packets++
	l.credit = false
	if p.GetKey() {
		l.keyPending = false
	} else if l.others++; l.keyPending && l.others >= keyPatience {
		l.keyPending = false
	}
	for v := range l.viewers {
		if !v.offer(p, now) {
			s.hub.skipped.Add(1)
		}
	}
	l.pump(now)
}

// pump asks for a key frame if a viewer needs one and may ask, and gives credit if a viewer can take a packet. The keeper
// is told of a key frame whose time has not come.
func (l *level) pump(now time.Time) {
	due := l.ask(now)
	l.grant(now)
	if !due.IsZero() && (l.due.IsZero() || due.Before(l.due)) {
		l.due = due
		l.screen.wakeKeeper()
	}
}

// ask asks for a key frame if a viewer needs one and may ask. Otherwise it returns when the first of those who need one may
// ask, or zero.
func (l *level) ask(now time.Time) (due time.Time) {
	if l.open == nil || l.keyPending {
		return due
	}
	for v := range l.viewers {
		if !v.wantsKey(now) {
			continue
		}
		if may := v.lastKey.Add(keyInterval); may.After(now) {
			if due.IsZero() || may.Before(due) {
				due = may
			}
			continue
		}
		v.lastKey = now
		l.keyPending, l.others = true, 0
		l.screen.hub.keyFrames.Add(1)
		_ = l.open.ForceKeyFrame() // an error means that the connection has ended, which is told in its own way
		return time.Time{}
	}
	return due
}

// grant gives credit if a viewer can take a packet.
func (l *level) grant(now time.Time) {
	if l.open == nil || l.credit {
		return
	}
	for v := range l.viewers {
		if v.ready(now) && (!v.needKey || l.keyPending) {
			l.credit = true
			_ = l.open.Credit(1) // as above
			return
		}
	}
}
