package control

import (
	"context"
	"errors"
	"fmt"
	"image/color"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phonehost/phonehost/encoder/avcodec"
	"github.com/phonehost/phonehost/encoder/internal/displayclient"
	"github.com/phonehost/phonehost/encoder/level"
	"github.com/phonehost/phonehost/encoder/screen"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
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
	return d
}

func (d *display) draw(shade uint8) {
	d.screen.Commit(time.Now(), func(c *screen.Canvas) { c.Fill(c.Bounds(), color.RGBA{R: shade, B: 50}) })
	d.screen.SetContent(true)
}

// client is a client that ends the test when the connection does.
type client struct {
	t testing.TB
	*displayclient.Client
}

func dial(t testing.TB, d *display) *client {
	t.Helper()
	conn, err := displayclient.Dial(d.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return &client{t: t, Client: conn}
}

// connect dials and says hello.
func connect(t testing.TB, d *display) *client {
	t.Helper()
	c := dial(t, d)
	if h := c.answer(displayclient.Hello()).GetHello(); h.GetVersion() != 1 {
		t.Fatalf("hello: %v", h)
	}
	return c
}

func (c *client) send(m *displayv1.ClientMessage) {
	c.t.Helper()
	if err := c.Send(m); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) next() *displayv1.ServerMessage {
	c.t.Helper()
	m, err := c.Receive()
	if err != nil {
		c.t.Fatalf("read from the display: %v", err)
	}
	return m
}

// answer sends a request and returns its answer.
func (c *client) answer(m *displayv1.ClientMessage) *displayv1.ServerMessage {
	c.t.Helper()
	a, err := c.Call(m)
	if err != nil {
		c.t.Fatalf("call the display: %v", err)
	}
	return a
}

func (c *client) packet() *displayv1.VideoPacket {
	c.t.Helper()
	p, err := c.Packet()
	if err != nil {
		c.t.Fatalf("packet of the display: %v", err)
	}
	return p
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
		if _, err := c.Receive(); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.t.Error("the connection was not closed")
			}
			return
		}
	}
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
