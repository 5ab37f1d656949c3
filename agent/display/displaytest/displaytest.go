// Package displaytest is a display without a screen for tests of who drives displays: it speaks the display protocol,
// counts credit as a display must, and its frames are what the test commits.
//
// It owns the connections that it serves, and forgets a level with its connection. It never encodes: packets are marked
// bytes. A Server's fields are set before its first use; its methods may be called by any goroutine. The goroutine of
// Serve and those of its connections end with Close, which waits for them.
package displaytest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/phonehost/phonehost/agent/display"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// Server is one display.
type Server struct {
	// Width, Height and FPS of the screen; 0 means 720, 1280 and 30.
	Width, Height, FPS uint32
	// Version of the protocol that hello names; 0 means display.Version.
	Version uint32
	// Build that hello names.
	Build string
	// PacketSize is the size of a packet's data in bytes; 0 means 1000.
	PacketSize int
	// OnMessage sees every message before it is handled; a message that it returns true for is not handled. May be nil.
	OnMessage func(*displayv1.ClientMessage) (handled bool)
	// Picture is the screenshot; nil means that there is no content.
	Picture []byte
	// RefuseInput makes the display refuse input for want of a window.
	RefuseInput bool

	running sync.WaitGroup

	mu       sync.Mutex // guards what follows
	closed   bool
	listener net.Listener
	conn     *conn // the newest
	frame    uint64
	encoded  uint64
	inputs   []*displayv1.InputEvent
}

// conn is one connection with its levels.
type conn struct {
	nc     net.Conn
	levels map[uint32]*level
	out    chan []byte
}

// level is one open level.
type level struct {
	credit       uint32
	dirty, force bool
	rate, fps    uint32
	sent         uint64
}

// Listen serves the socket of a phone's display in the registry's directory dir, made ready by rename.
func (s *Server) Listen(dir, id string) error {
	folder := filepath.Join(dir, id, "display")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	hidden := filepath.Join(folder, ".control.sock")
	os.Remove(hidden)
	l, err := net.Listen("unix", hidden)
	if err != nil {
		return err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	s.mu.Lock()
	s.listener = l
	s.running.Add(1)
	s.mu.Unlock()
	go s.accept(l)
	return os.Rename(hidden, filepath.Join(folder, "control.sock"))
}

func (s *Server) accept(l net.Listener) {
	defer s.running.Done()
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		s.ServeConn(nc)
	}
}

// ServeConn serves one connection, which replaces the one before once its hello is there.
func (s *Server) ServeConn(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		nc.Close()
		return
	}
	s.running.Add(2)
	c := &conn{nc: nc, levels: make(map[uint32]*level), out: make(chan []byte, 4096)}
	go s.write(nc, c.out)
	go s.read(c)
}

// Close ends the display as a crash would.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	if s.listener != nil {
		s.listener.Close()
	}
	if s.conn != nil {
		s.conn.nc.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// Drop cuts the connection, as a display does that is replaced.
func (s *Server) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.nc.Close()
	}
}

// Commit makes a new frame, which every level encodes as soon as it has credit; the newest wins.
func (s *Server) Commit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frame++
	if s.conn == nil {
		return
	}
	for id, l := range s.conn.levels {
		l.dirty = true
		s.pump(s.conn, id, l)
	}
}

// Fail ends every level with a reason.
func (s *Server) Fail(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.conn.levels {
		delete(s.conn.levels, id)
		s.send(s.conn, &displayv1.ServerMessage{Message: &displayv1.ServerMessage_LevelFailed{
			LevelFailed: &displayv1.LevelFailed{Level: id, Message: reason},
		}})
	}
}

// Send sends any message to the present client.
func (s *Server) Send(m *displayv1.ServerMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send(s.conn, m)
}

// Level is what a test sees of an open level.
type Level struct {
	Credit, Rate, FPS uint32
	Sent              uint64
}

// Levels returns the open levels by their names.
func (s *Server) Levels() map[uint32]Level {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[uint32]Level)
	if s.conn != nil {
		for id, l := range s.conn.levels {
			all[id] = Level{Credit: l.credit, Rate: l.rate, FPS: l.fps, Sent: l.sent}
		}
	}
	return all
}

// Encoded returns how many packets were made over all levels.
func (s *Server) Encoded() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.encoded
}

// Inputs returns the input events so far.
func (s *Server) Inputs() []*displayv1.InputEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*displayv1.InputEvent(nil), s.inputs...)
}

func (s *Server) write(nc net.Conn, out <-chan []byte) {
	defer s.running.Done()
	for b := range out {
		if _, err := nc.Write(b); err != nil {
			nc.Close()
		}
	}
}

func (s *Server) read(c *conn) {
	defer s.running.Done()
	defer func() {
		s.mu.Lock()
		if s.conn == c {
			s.conn = nil
		}
		close(c.out)
		c.out = nil
		s.mu.Unlock()
		c.nc.Close()
	}()
	for {
		m := new(displayv1.ClientMessage)
		if err := display.ReadMessage(c.nc, m); err != nil {
			return
		}
		if s.OnMessage != nil && s.OnMessage(m) {
			continue
		}
		if err := s.handle(c, m); err != nil {
			return
		}
	}
}

// handle answers one message.
func (s *Server) handle(c *conn, m *displayv1.ClientMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.GetHello() == nil && s.conn != c {
		return errors.New("replaced, or no hello yet")
	}
	switch x := m.GetMessage().(type) {
	case *displayv1.ClientMessage_Hello:
		if s.conn != nil && s.conn != c {
			s.conn.nc.Close()
		}
		s.conn = c
		s.send(c, &displayv1.ServerMessage{Request: m.GetRequest(), Message: &displayv1.ServerMessage_Hello{Hello: &displayv1.ServerHello{
			Version: or(s.Version, display.Version), Build: s.Build, Width: or(s.Width, 720), Height: or(s.Height, 1280), Fps: or(s.FPS, 30),
		}}})
	case *displayv1.ClientMessage_OpenLevel:
		c.levels[x.OpenLevel.GetLevel()] = &level{force: true, rate: x.OpenLevel.GetBitrateKbps(), fps: x.OpenLevel.GetMaxFps()}
		s.send(c, &displayv1.ServerMessage{Request: m.GetRequest(), Message: &displayv1.ServerMessage_LevelOpened{LevelOpened: &displayv1.LevelOpened{
			Level: x.OpenLevel.GetLevel(), Encoder: "marks", Width: or(s.Width, 720), Height: or(s.Height, 1280),
		}}})
	case *displayv1.ClientMessage_CloseLevel:
		delete(c.levels, x.CloseLevel.GetLevel())
	case *displayv1.ClientMessage_Credit:
		s.level(c, x.Credit.GetLevel(), func(l *level) { l.credit += x.Credit.GetPackets() })
	case *displayv1.ClientMessage_ForceKeyFrame:
		s.level(c, x.ForceKeyFrame.GetLevel(), func(l *level) { l.force = true })
	case *displayv1.ClientMessage_SetRate:
		s.level(c, x.SetRate.GetLevel(), func(l *level) { l.rate = x.SetRate.GetBitrateKbps() })
	default:
		s.answer(c, m)
	}
	return nil
}

// answer handles requests that concern no level.
func (s *Server) answer(c *conn, m *displayv1.ClientMessage) {
	reply := &displayv1.ServerMessage{Request: m.GetRequest()}
	switch x := m.GetMessage().(type) {
	case *displayv1.ClientMessage_Input:
		reply.Message = &displayv1.ServerMessage_Done{Done: &displayv1.Done{}}
		if s.RefuseInput {
			reply.Message = refuse(displayv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "no window takes input")
		} else {
			s.inputs = append(s.inputs, x.Input.GetEvents()...)
		}
	case *displayv1.ClientMessage_GetState:
		reply.Message = &displayv1.ServerMessage_State{State: &displayv1.State{
			HasContent: s.frame > 0, FramesCommitted: s.frame, FramesChanged: s.frame, FramesEncoded: s.encoded,
		}}
	case *displayv1.ClientMessage_TakeScreenshot:
		if s.Picture == nil {
			reply.Message = refuse(displayv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "nothing has been drawn")
			break
		}
		rest := s.Picture
		for len(rest) > 64<<10 {
			s.send(c, &displayv1.ServerMessage{Request: m.GetRequest(), Message: &displayv1.ServerMessage_Screenshot{
				Screenshot: &displayv1.ScreenshotChunk{Data: rest[:64<<10]},
			}})
			rest = rest[64<<10:]
		}
		reply.Message = &displayv1.ServerMessage_Screenshot{Screenshot: &displayv1.ScreenshotChunk{Data: rest, Last: true}}
	default:
		return
	}
	s.send(c, reply)
}

// level changes an open level and sends what it may send then.
func (s *Server) level(c *conn, id uint32, change func(*level)) {
	if l := c.levels[id]; l != nil {
		change(l)
		s.pump(c, id, l)
	}
}

// pump sends the newest frame if there is one and credit for it.
func (s *Server) pump(c *conn, id uint32, l *level) {
	if l.credit == 0 || s.frame == 0 || !l.dirty && !l.force {
		return
	}
	data := make([]byte, max(s.PacketSize, 1000))
	copy(data, fmt.Sprintf("frame %d", s.frame))
	p := &displayv1.VideoPacket{Level: id, Key: l.force, Data: data, Frame: s.frame}
	l.credit--
	l.sent++
	l.dirty, l.force = false, false
	s.encoded++
	s.send(c, &displayv1.ServerMessage{Message: &displayv1.ServerMessage_Packet{Packet: p}})
}

func (s *Server) send(c *conn, m *displayv1.ServerMessage) {
	if c == nil || c.out == nil {
		return
	}
	b, err := display.AppendMessage(nil, m)
	if err != nil {
		panic(err)
	}
	c.out <- b
}

func refuse(code displayv1.ErrorCode, message string) *displayv1.ServerMessage_Error {
	return &displayv1.ServerMessage_Error{Error: &displayv1.Error{Code: code, Message: message}}
}

func or(a, b uint32) uint32 {
	if a != 0 {
		return a
	}
	return b
}
