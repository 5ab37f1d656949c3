package display

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// LevelConfig says what encoder to open.
type LevelConfig struct {
	// Encoder by name, such as "libx264"; empty means the display's default.
	Encoder string
	// BitrateKbps is the rate in kbit/s, 100..10000.
	BitrateKbps uint32
	// MaxFPS is the highest frame rate, 1..120.
	MaxFPS uint32
	// OnPacket is called by the connection's reader with every packet, in order. The packet is never changed afterwards and
	// may be kept. Must not block.
	OnPacket func(*displayv1.VideoPacket)
	// OnFailed is called by the reader, once at most, when the encoder ended by itself; no packet follows. Must not block.
	// It is not called when the connection ends.
	OnFailed func(reason string)
}

// Level is an open encoder of a display. Its methods may be called by any goroutine and never block.
type Level struct {
	conn   *Conn
	id     uint32
	config LevelConfig

	// Encoder that was opened, and the size of its video in pixels.
	Encoder       string
	Width, Height uint32

	credit uint32 // packets that the display may still send; guarded by conn.mu
}

// OpenLevel starts an encoder. Nothing is encoded until Credit is called. Errors: ErrInvalidArgument, ErrUnavailable when
// the encoder is missing or broken or the display is lost.
func (c *Conn) OpenLevel(ctx context.Context, config LevelConfig) (*Level, error) {
	l := &Level{conn: c, config: config}
	c.mu.Lock()
	c.names++
	l.id = c.names
	c.levels[l.id] = l
	c.mu.Unlock()

	m, err := c.ask(ctx, "open level", &displayv1.ClientMessage{Message: &displayv1.ClientMessage_OpenLevel{
		OpenLevel: &displayv1.OpenLevel{
			Level: l.id, Encoder: config.Encoder, BitrateKbps: config.BitrateKbps, MaxFps: config.MaxFPS,
		},
	}})
	if err == nil && m.GetLevelOpened() == nil {
		err = unexpected("open level", m)
	}
	if err != nil {
		l.Close() // the display may have opened it all the same, when it was the answer that was late
		return nil, err
	}
	opened := m.GetLevelOpened()
	l.Encoder, l.Width, l.Height = opened.GetEncoder(), opened.GetWidth(), opened.GetHeight()
	return l, nil
}

// Conn returns the connection that the level belongs to.
func (l *Level) Conn() *Conn { return l.conn }

// Credit allows packets more packets, 1..16.
func (l *Level) Credit(packets uint32) error {
	c := l.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	l.credit += packets
	return c.sendLocked(&displayv1.ClientMessage{Message: &displayv1.ClientMessage_Credit{
		Credit: &displayv1.Credit{Level: l.id, Packets: packets},
	}})
}

// ForceKeyFrame makes the next packet a key frame.
func (l *Level) ForceKeyFrame() error {
	return l.conn.send(&displayv1.ClientMessage{Message: &displayv1.ClientMessage_ForceKeyFrame{
		ForceKeyFrame: &displayv1.ForceKeyFrame{Level: l.id},
	}})
}

// SetRate changes the rate, 100..10000 kbit/s, without a key frame.
func (l *Level) SetRate(kbps uint32) error {
	return l.conn.send(&displayv1.ClientMessage{Message: &displayv1.ClientMessage_SetRate{
		SetRate: &displayv1.SetRate{Level: l.id, BitrateKbps: kbps},
	}})
}

// Close ends the encoder. Packets that are under way are dropped, but for one that the reader is handing out just now.
func (l *Level) Close() {
	c := l.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.levels[l.id] != l {
		return
	}
	delete(c.levels, l.id)
	// An error means that the connection has ended, and the level with it.
	_ = c.sendLocked(&displayv1.ClientMessage{Message: &displayv1.ClientMessage_CloseLevel{
		CloseLevel: &displayv1.CloseLevel{Level: l.id},
	}})
}

// packet hands a packet to the owner of its level. A display that sends more than it was allowed to is cut off: what it
// sends is kept in memory.
func (c *Conn) packet(p *displayv1.VideoPacket) error {
	c.mu.Lock()
	l := c.levels[p.GetLevel()]
	if l == nil {
		c.mu.Unlock()
		return nil // closed while the packet was under way
	}
	if l.credit == 0 {
		c.mu.Unlock()
		return fmt.Errorf("level %d sent a packet without credit: %w", l.id, errdefs.ErrFailedPrecondition)
	}
	l.credit--
	c.mu.Unlock()
	l.config.OnPacket(p)
	return nil
}

// failed tells the owner of a level that its encoder ended.
func (c *Conn) failed(f *displayv1.LevelFailed) {
	c.mu.Lock()
	l := c.levels[f.GetLevel()]
	delete(c.levels, f.GetLevel())
	c.mu.Unlock()
	if l != nil && l.config.OnFailed != nil {
		l.config.OnFailed(f.GetMessage())
	}
}
