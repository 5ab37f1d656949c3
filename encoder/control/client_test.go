package control

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image/color"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phonehost/phonehost/encoder/avcodec"
	"github.com/phonehost/phonehost/encoder/level"
	"github.com/phonehost/phonehost/encoder/screen"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
	"google.golang.org/protobuf/proto"
)

// guest records input, as words.
type guest struct {
	mu     sync.Mutex
	events []string
	err    error
}

func (g *guest) add(format string, args ...any) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.events = append(g.events, fmt.Sprintf(format, args...))
	}
	return g.err
}

func (g *guest) take() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.events
	g.events = nil
	return e
}

func (g *guest) Touch(id int, a TouchAction, x, y float64) error {
	return g.add("touch %d %d %g,%g", id, a, x, y)
}
func (g *guest) Key(code uint32, down bool) error { return g.add("key %d %v", code, down) }
func (g *guest) Text(s string) error              { return g.add("text %q", s) }
func (g *guest) Wheel(x, y, dx, dy float64) error { return g.add("wheel %g,%g by %g,%g", x, y, dx, dy) }
func openX264(name string, w, h, fps, kbps int) (level.Encoder, error) {
	e, err := avcodec.Open(avcodec.Config{Codec: name, Width: w, Height: h, FPS: fps, Kbps: kbps})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// display is a server under test.
type display struct {
	*Server
	screen *screen.Screen
	guest  *guest
	path   string
}

func start(t *testing.T) *display {
	t.Helper()
	return startSized(t, 160, 128)
}

func startSized(t *testing.T, width, height int) *display {
	t.Helper()
	s, err := screen.New(width, height)
	if err != nil {
		t.Fatal(err)
	}
	d := &display{screen: s, guest: &guest{}}
	dir := t.TempDir()
	d.path = filepath.Join(dir, SocketName)
	d.Server, err = New(Config{
		Dir: dir, Screen: s, FPS: 30, Build: "test", Input: d.guest, Open: openX264,
		Clients: func() int { return 3 }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Stat(d.path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
	for { // the socket appears by rename; there is no other event to wait for from outside
		if _, err := os.Stat(d.path); err == nil {
			return d
		}
	}
}

func (d *display) draw(shade uint8) {
	d.screen.Commit(time.Now(), func(c *screen.Canvas) { c.Fill(c.Bounds(), color.RGBA{R: shade, B: 50}) })
	d.screen.SetContent(true)
}

// client speaks the protocol from the agent's side.
type client struct {
	t testing.TB
	net.Conn
}

func dial(t testing.TB, d *display) *client {
	t.Helper()
	conn, err := net.Dial("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return &client{t: t, Conn: conn}
}

// connect dials and says hello.
func connect(t testing.TB, d *display) *client {
	t.Helper()
	c := dial(t, d)
	c.send(hello())
	if h := c.next().GetHello(); h.GetVersion() != 1 {
		t.Fatalf("hello: %v", h)
	}
	return c
}

func hello() *displayv1.ClientMessage {
	return &displayv1.ClientMessage{Request: 1, Message: &displayv1.ClientMessage_Hello{Hello: &displayv1.ClientHello{Version: 1}}}
}

func (c *client) send(m *displayv1.ClientMessage) {
	c.t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) read() (*displayv1.ServerMessage, error) {
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, err
	}
	m := &displayv1.ServerMessage{}
	return m, proto.Unmarshal(b, m)
}

func (c *client) next() *displayv1.ServerMessage {
	c.t.Helper()
	m, err := c.read()
	if err != nil {
		c.t.Fatalf("read from the display: %v", err)
	}
	return m
}

// answer sends a request and returns its answer; what else comes before it is thrown away.
func (c *client) answer(m *displayv1.ClientMessage) *displayv1.ServerMessage {
	c.t.Helper()
	c.send(m)
	for {
		if a := c.next(); a.GetRequest() == m.GetRequest() {
			return a
		}
	}
}

func (c *client) wantError(m *displayv1.ClientMessage, code displayv1.ErrorCode, words string) {
	c.t.Helper()
	a := c.answer(m)
	if e := a.GetError(); e.GetCode() != code || !strings.Contains(e.GetMessage(), words) {
		c.t.Errorf("answer to %v is %v, want code %v and %q", m, a, code, words)
	}
}

func (c *client) wantClosed() {
	c.t.Helper()
	for {
		if _, err := c.read(); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.t.Error("the connection was not closed")
			}
			return
		}
	}
}

func levelRequest(request uint64, number uint32) *displayv1.ClientMessage {
	return &displayv1.ClientMessage{Request: request, Message: &displayv1.ClientMessage_OpenLevel{
		OpenLevel: &displayv1.OpenLevel{Level: number, BitrateKbps: 1000, MaxFps: 30},
	}}
}

func credit(number, packets uint32) *displayv1.ClientMessage {
	return &displayv1.ClientMessage{Message: &displayv1.ClientMessage_Credit{
		Credit: &displayv1.Credit{Level: number, Packets: packets},
	}}
}

func getState(request uint64) *displayv1.ClientMessage {
	return &displayv1.ClientMessage{Request: request, Message: &displayv1.ClientMessage_GetState{GetState: &displayv1.GetState{}}}
}

func inputOf(request uint64, events ...*displayv1.InputEvent) *displayv1.ClientMessage {
	return &displayv1.ClientMessage{Request: request, Message: &displayv1.ClientMessage_Input{Input: &displayv1.Input{Events: events}}}
}

func touch(id uint32, a TouchAction, x, y float64) *displayv1.InputEvent {
	return &displayv1.InputEvent{Event: &displayv1.InputEvent_Touch{
		Touch: &displayv1.Touch{Id: id, Action: displayv1.TouchAction(a), X: x, Y: y},
	}}
}

func key(code uint32, down bool) *displayv1.InputEvent {
	return &displayv1.InputEvent{Event: &displayv1.InputEvent_Key{Key: &displayv1.Key{Code: code, Down: down}}}
}

func text(s string) *displayv1.InputEvent {
	return &displayv1.InputEvent{Event: &displayv1.InputEvent_Text{Text: s}}
}

func wheel(x, y, dx, dy float64) *displayv1.InputEvent {
	return &displayv1.InputEvent{Event: &displayv1.InputEvent_Wheel{Wheel: &displayv1.Wheel{X: x, Y: y, Dx: dx, Dy: dy}}}
}

func (c *client) packet() *displayv1.VideoPacket {
	c.t.Helper()
	for {
		if p := c.next().GetPacket(); p != nil {
			return p
		}
	}
}
