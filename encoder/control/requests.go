package control

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/encoder/level"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// maxLevels is how many levels a client may have open.
const maxLevels = 8

// openLevel is a level of a connection, which stays listed after it failed until somebody waits for its goroutine.
type openLevel struct {
	level  *level.Level
	failed bool // guarded by conn.mu
}

// handle handles one message. Its error ends the connection.
func (c *conn) handle(m *displayv1.ClientMessage) error {
	request := m.GetRequest()
	switch r := m.GetMessage().(type) {
	case *displayv1.ClientMessage_Hello:
		return fmt.Errorf("a second hello: %w", errdefs.ErrInvalidArgument)
	case *displayv1.ClientMessage_OpenLevel:
		if err := c.open(request, r.OpenLevel); err != nil {
			return c.refuse(request, err)
		}
	case *displayv1.ClientMessage_CloseLevel:
		c.closeLevel(r.CloseLevel.GetLevel())
	case *displayv1.ClientMessage_Credit:
		return c.onLevel(request, r.Credit.GetLevel(), func(l *level.Level) error {
			n := r.Credit.GetPackets()
			if n < 1 || n > 16 {
				return fmt.Errorf("credit of %d packets: 1..16: %w", n, errdefs.ErrInvalidArgument)
			}
			l.Credit(int(n))
			return nil
		})
	case *displayv1.ClientMessage_ForceKeyFrame:
		return c.onLevel(request, r.ForceKeyFrame.GetLevel(), func(l *level.Level) error {
			l.ForceKeyFrame()
			return nil
		})
	case *displayv1.ClientMessage_SetRate:
		return c.onLevel(request, r.SetRate.GetLevel(), func(l *level.Level) error {
			return l.SetRate(clampInt(r.SetRate.GetBitrateKbps()), clampInt(r.SetRate.GetMaxFps()))
		})
	case *displayv1.ClientMessage_Input:
		if err := c.input(r.Input.GetEvents()); err != nil {
			return c.refuse(request, err)
		}
		return c.done(request)
	case *displayv1.ClientMessage_TakeScreenshot:
		if err := c.askShot(request); err != nil {
			return c.refuse(request, err)
		}
	case *displayv1.ClientMessage_GetState:
		return c.sendState(request)
	default:
		// A message of a later version, or an empty one: ignored, unless somebody waits for an answer.
		if request != 0 {
			return c.refuse(request, fmt.Errorf("a message that this display does not know: %w", errdefs.ErrInvalidArgument))
		}
	}
	return nil
}

// clampInt turns a number of the wire into an int that stays out of range if it was.
func clampInt(v uint32) int { return int(min(v, 1<<30)) }

// onLevel does something to an open level. These messages have no answer, and a level that failed a moment ago is no fault of
// the client: errors go to who gave the message a number, and else to the log.
func (c *conn) onLevel(request uint64, number uint32, do func(*level.Level) error) error {
	c.mu.Lock()
	l := c.levels[number]
	if l != nil && l.failed {
		l = nil
	}
	c.mu.Unlock()
	err := fmt.Errorf("level %d is not open: %w", number, errdefs.ErrFailedPrecondition)
	if l != nil {
		err = do(l.level)
	}
	switch {
	case err == nil:
		return nil
	case request != 0:
		return c.refuse(request, err)
	}
	c.log.Debug("request without effect", "level", number, "error", err)
	return nil
}

// open starts a level; its encoder opens on the level's own goroutine, which answers.
func (c *conn) open(request uint64, r *displayv1.OpenLevel) error {
	number := r.GetLevel()
	if number == 0 {
		return fmt.Errorf("level 0: 1 or higher: %w", errdefs.ErrInvalidArgument)
	}
	c.sweep()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.levels[number] != nil:
		return fmt.Errorf("level %d is open already: %w", number, errdefs.ErrInvalidArgument)
	case len(c.levels) >= maxLevels:
		return fmt.Errorf("%d levels are open, which is the most: %w", len(c.levels), errdefs.ErrFailedPrecondition)
	}
	o := &openLevel{}
	name := r.GetEncoder()
	l, err := level.Start(level.Config{
		Screen: c.server.config.Screen,
		Open: func(width, height, fps, kbps int) (level.Encoder, error) {
			return c.server.config.Open(name, width, height, fps, kbps)
		},
		Kbps: clampInt(r.GetBitrateKbps()), FPS: clampInt(r.GetMaxFps()),
		Opened: func(info level.Info, err error) { c.opened(request, number, o, info, err) },
		Packet: func(p level.Packet) { c.packet(number, p) },
		Failed: func(err error) { c.failed(number, o, err) },
	})
	if err != nil {
		return err
	}
	o.level = l
	c.levels[number] = o
	c.server.levels.add(1)
	return nil
}

// opened answers open_level; on the level's goroutine.
func (c *conn) opened(request uint64, number uint32, o *openLevel, info level.Info, err error) {
	if err != nil {
		c.log.Warn("level not opened", "level", number, "error", err)
		c.markFailed(o)
		c.refuse(request, err)
		return
	}
	c.log.Info("level opened", "level", number, "encoder", info.Encoder)
	c.out.write(&displayv1.ServerMessage{Request: request, Message: &displayv1.ServerMessage_LevelOpened{
		LevelOpened: &displayv1.LevelOpened{
			Level: number, Encoder: info.Encoder, Width: uint32(info.Width), Height: uint32(info.Height),
		},
	}})
}

// packet sends a packet; on the level's goroutine.
func (c *conn) packet(number uint32, p level.Packet) {
	c.server.encoded.Add(1)
	v := &displayv1.VideoPacket{
		Level: number, Key: p.Key, Data: p.Data, Frame: p.Frame,
		EncodeStartTimeNs: p.EncodeStart.UnixNano(), EncodeEndTimeNs: p.EncodeEnd.UnixNano(),
	}
	if !p.CommitTime.IsZero() {
		v.CommitTimeNs = p.CommitTime.UnixNano()
	}
	// An error closed the socket, and so ends the connection.
	c.out.write(&displayv1.ServerMessage{Message: &displayv1.ServerMessage_Packet{Packet: v}})
}

// failed tells the client that a level ended; on the level's goroutine.
func (c *conn) failed(number uint32, o *openLevel, err error) {
	c.log.Error("level failed", "level", number, "error", err)
	c.markFailed(o)
	c.out.write(&displayv1.ServerMessage{Message: &displayv1.ServerMessage_LevelFailed{
		LevelFailed: &displayv1.LevelFailed{Level: number, Message: err.Error()},
	}})
}

func (c *conn) markFailed(o *openLevel) {
	c.mu.Lock()
	o.failed = true
	c.mu.Unlock()
	c.server.levels.add(-1)
}
