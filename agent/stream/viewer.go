package stream

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/fault"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// Rates of a level in kbit/s.
const (
	MinKbps = 100
	MaxKbps = 10000
)

// maxQueue is how many packets may wait for a viewer's connection, for a viewer that another of its level leaves behind.
const maxQueue = 4

// AttachOptions says who wants to watch what.
type AttachOptions struct {
	// Phone is its id.
	Phone string
	// Identity of the viewer, such as "client/fleet".
	Identity string
	// BitrateKbps is the level's rate in kbit/s, MinKbps..MaxKbps; 0 keeps the rate of a level that is open, and means
	// 4000 for a new one.
	BitrateKbps uint32
	// MaxFPS is the highest frame rate, 1..the display's; 0 means the display's.
	MaxFPS uint32
}

// Info is what a viewer will see.
type Info struct {
	// Viewer is the viewer's name, unique on this agent.
	Viewer string
	// Width and Height of the video in pixels, and MaxFPS.
	Width, Height, MaxFPS uint32
	// BitrateKbps of the level in kbit/s.
	BitrateKbps uint32
	// Encoder by name.
	Encoder string
}

// Message is one thing that a viewer is told; exactly one field is set.
type Message struct {
	Packet *Packet
	Lost   *Lost
	Back   *Back
}

// Packet is one access unit for one viewer.
type Packet struct {
	// Seq counts the viewer's packets from 1.
	Seq uint64
	// SendTime is when Next returned it.
	SendTime time.Time
	// Video is shared with other viewers and must not be changed.
	Video *displayv1.VideoPacket
}

// Lost tells that the display is lost.
type Lost struct {
	// Reason why.
	Reason string
}

// Back tells that the display is back; the next packet is a key frame.
type Back struct {
	// Width and Height of the video in pixels.
	Width, Height uint32
}

// Viewer is one attached video session. Next is for one goroutine, all else for any; Close must be called.
type Viewer struct {
	hub      *Hub
	screen   *screen
	level    *level
	identity string
	notify   chan struct{} // holds one token after something happened that Next waits for
	opened   chan struct{} // closed when the first encoder is open, or with err set
	done     chan struct{} // closed with err set

	// All that follows is guarded by screen.mu.
	info     Info
	started  bool  // opened is closed
	err      error // why the viewer ended
	closed   bool
	events   []Message // at most a Lost and a Back, to be told before any packet
	told     bool      // a Lost was put into events, and no Back since
	queue    []*displayv1.VideoPacket
	sending  bool // what Next returned last has not been handed to the connection yet
	seq      uint64
	window   window
	needKey  bool      // nothing but a key frame can be taken
	keyAsked bool      // the viewer asked for a key frame and has not got it
	lastKey  time.Time // when a key frame was last asked for on its behalf
}

// Attach makes the caller a viewer and waits until its level is open. Errors: ErrInvalidArgument; ErrNotFound;
// ErrFailedPrecondition with reason NOT_RUNNING; ErrResourceExhausted with reason TOO_MANY_VIEWERS; ErrUnavailable with
// reason DISPLAY_LOST, ENCODER_FAILED or SHUTTING_DOWN.
func (h *Hub) Attach(ctx context.Context, opts AttachOptions) (*Viewer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if opts.BitrateKbps != 0 {
		if err := checkRate(opts.BitrateKbps); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.config.AttachTimeout, lost(opts.Phone, "waited "+h.config.AttachTimeout.String()))
	defer cancel()
	s, err := h.acquire(opts.Phone)
	if err != nil {
		return nil, err
	}
	v, err := s.join(ctx, opts)
	if err != nil {
		h.release(s)
		return nil, err
	}
	h.viewers.Add(1)
	select {
	case <-v.opened:
		err = v.failure()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		v.detach(err)
		return nil, err
	}
	h.config.OnViewer(ViewerEvent{Attached: true, Phone: opts.Phone, Viewer: v.info.Viewer, Identity: opts.Identity})
	return v, nil
}

// join adds a viewer to its level; the keeper opens the level.
func (s *screen) join(ctx context.Context, opts AttachOptions) (*Viewer, error) {
	conn, err := s.waitConn(ctx)
	if err != nil {
		return nil, err
	}
	fps := opts.MaxFPS
	if limit := conn.Hello().FPS; fps > limit {
		return nil, fault.Field("max_fps", "%d is out of range: 1..%d, the display's rate, or 0 for that", fps, limit)
	} else if fps == 0 {
		fps = limit
	}
	v := &Viewer{
		hub: s.hub, screen: s, identity: opts.Identity, needKey: true,
		notify: make(chan struct{}, 1), opened: make(chan struct{}), done: make(chan struct{}),
		info: Info{Viewer: "v-" + strings.ToLower(rand.Text()[:13]), MaxFPS: fps},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return nil, s.ended
	}
	if len(s.viewers) >= s.hub.config.MaxViewers {
		return nil, fault.New(errdefs.ErrResourceExhausted, TooManyViewers, "phone %s has %d viewers, as many as it may have",
			s.phone, len(s.viewers))
	}
	v.level = s.levelFor(fps, opts.BitrateKbps)
	v.level.viewers[v] = struct{}{}
	s.viewers[v.info.Viewer] = v
	if v.level.open != nil {
		v.levelOpened(v.level.open)
		v.level.pump(time.Now())
	}
	s.wakeKeeper()
	return v, nil
}

// Info returns what the viewer sees.
func (v *Viewer) Info() Info {
	v.screen.mu.Lock()
	defer v.screen.mu.Unlock()
	info := v.info
	info.BitrateKbps = v.level.kbps
	return info
}

// Done is closed when the viewer has ended.
func (v *Viewer) Done() <-chan struct{} { return v.done }

// Next returns the next thing to tell the viewer. Its call means that what it returned before has been handed to the
// viewer's connection. It waits until there is something, the viewer has ended, or ctx ends.
func (v *Viewer) Next(ctx context.Context) (Message, error) {
	for {
		m, ok, err := v.take()
		if ok || err != nil {
			return m, err
		}
		select {
		case <-v.notify:
		case <-ctx.Done():
			return Message{}, context.Cause(ctx)
		}
	}
}

// take returns what can be told now.
func (v *Viewer) take() (m Message, ok bool, err error) {
	v.screen.mu.Lock()
	defer v.screen.mu.Unlock()
	now := time.Now()
	v.sending = false
	switch {
	case v.err != nil:
		return m, false, v.err
	case len(v.events) > 0:
		m = v.events[0]
		v.events = v.events[1:]
		v.sending = true
		return m, true, nil
	case len(v.queue) == 0:
		v.level.pump(now)
		return m, false, nil
	}
	p := v.queue[0]
	v.queue = v.queue[:copy(v.queue, v.queue[1:])]
	v.sending = true
	v.seq++
	v.window.add(v.seq, len(p.GetData()), now)
	v.hub.packets.Add(1)
	v.hub.bytes.Add(uint64(len(p.GetData())))
	return Message{Packet: &Packet{Seq: v.seq, SendTime: now, Video: p}}, true, nil
}

// Ack takes word that the packet seq and all before it have arrived. It returns ErrInvalidArgument for a packet that was
// not sent.
func (v *Viewer) Ack(seq uint64) error {
	v.screen.mu.Lock()
	defer v.screen.mu.Unlock()
	if seq > v.seq {
		return fault.Field("ack.seq", "packet %d has not been sent, the newest is %d", seq, v.seq)
	}
	now := time.Now()
	v.window.ack(seq, now)
	v.level.pump(now)
	return nil
}

// RequestKeyFrame asks for a key frame, now or as soon as the last one that was asked for is a second old.
func (v *Viewer) RequestKeyFrame() {
	v.screen.mu.Lock()
	defer v.screen.mu.Unlock()
	v.keyAsked = true
	v.level.pump(time.Now())
}

// SetRate changes the rate of the viewer's level, for all who share it. It returns ErrInvalidArgument for a rate out of
// range.
func (v *Viewer) SetRate(kbps uint32) error {
	if err := checkRate(kbps); err != nil {
		return err
	}
	v.screen.mu.Lock()
	defer v.screen.mu.Unlock()
	v.level.setRate(kbps)
	return nil
}

// Close detaches the viewer and ends the inputs that are bound to it. cause says why, nil when it just left.
func (v *Viewer) Close(cause error) {
	if v.detach(cause) {
		v.screen.mu.Lock()
		frames := v.seq
		v.screen.mu.Unlock()
		v.hub.config.OnViewer(ViewerEvent{
			Phone: v.screen.phone, Viewer: v.info.Viewer, Identity: v.identity, Frames: frames, Cause: cause,
		})
	}
}

// detach takes the viewer off its screen, once; it tells whether this call did.
func (v *Viewer) detach(cause error) bool {
	s := v.screen
	s.mu.Lock()
	if v.closed {
		s.mu.Unlock()
		return false
	}
	v.closed = true
	if cause == nil {
		cause = fmt.Errorf("viewer %s has left: %w", v.info.Viewer, context.Canceled)
	}
	v.finish(cause)
	delete(s.viewers, v.info.Viewer)
	v.level.leave(v)
	for in := range s.inputs {
		if in.viewer == v {
			in.finish(fault.New(context.Canceled, ViewerLeft, "viewer %s, which the input was bound to, has left", v.info.Viewer))
		}
	}
	s.mu.Unlock()
	v.hub.viewers.Add(-1)
	v.hub.release(s)
	return true
}

// failure returns why the viewer ended, or nil.
func (v *Viewer) failure() error {
	v.screen.mu.Lock()
	defer v.screen.mu.Unlock()
	return v.err
}

// What follows is called with screen.mu held.

// finish ends the viewer; its owner finds out by Next.
func (v *Viewer) finish(cause error) {
	if v.err != nil {
		return
	}
	v.err = cause
	v.queue, v.events = nil, nil
	close(v.done)
	if !v.started {
		v.started = true
		close(v.opened)
	}
	v.wake()
}

func (v *Viewer) wake() {
	select {
	case v.notify <- struct{}{}:
	default:
	}
}

// levelOpened takes the encoder that packets will come from.
func (v *Viewer) levelOpened(l *display.Level) {
	v.needKey = true
	v.info.Width, v.info.Height, v.info.Encoder = l.Width, l.Height, l.Encoder
	if !v.started {
		v.started = true
		close(v.opened)
	}
	if v.told {
		v.told = false
		v.events = append(v.events, Message{Back: &Back{Width: l.Width, Height: l.Height}})
		v.wake()
	}
}

// displayLost tells the viewer. A Lost that has not been told yet stays the first thing to tell.
func (v *Viewer) displayLost(reason string) {
	v.queue = v.queue[:0]
	if !v.started || v.told {
		return
	}
	v.told = true
	v.events = append(v.events[:0], Message{Lost: &Lost{Reason: reason}})
	v.wake()
}

// ready tells whether a packet may be encoded for the viewer.
func (v *Viewer) ready(now time.Time) bool {
	return v.err == nil && !v.sending && len(v.queue) == 0 && len(v.events) == 0 && v.window.open(now)
}

// wantsKey tells whether a key frame should be asked for on its behalf as soon as it may be.
func (v *Viewer) wantsKey(now time.Time) bool {
	return (v.keyAsked || v.needKey) && v.ready(now)
}

// offer queues a packet if the viewer can take it; it tells whether the viewer has missed nothing.
func (v *Viewer) offer(p *displayv1.VideoPacket, now time.Time) bool {
	if v.err != nil {
		return true // it has ended and is about to leave
	}
	if v.needKey && !p.GetKey() {
		return false
	}
	if len(v.queue) >= maxQueue || !v.window.bears(now) {
		v.needKey = true
		return false
	}
	if p.GetKey() {
		v.needKey, v.keyAsked = false, false
	}
	v.queue = append(v.queue, p)
	v.wake()
	return true
}

func checkRate(kbps uint32) error {
	if kbps < MinKbps || kbps > MaxKbps {
		return fault.Field("bitrate_kbps", "%d is out of range: %d..%d kbit/s", kbps, MinKbps, MaxKbps)
	}
	return nil
}
