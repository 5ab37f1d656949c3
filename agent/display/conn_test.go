package display_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/display/displaytest"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// connect connects to a display through a pipe.
func connect(t *testing.T, s *displaytest.Server, opts display.Options) *display.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	s.ServeConn(theirs)
	c, err := display.NewConn(t.Context(), ours, opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHandshake(t *testing.T) {
	tests := []struct {
		name   string
		server *displaytest.Server
		class  func(error) bool // nil for success
	}{
		{"as it should be", &displaytest.Server{Build: "1.0", Width: 240, Height: 320, FPS: 60}, nil},
		{"newer version", &displaytest.Server{Version: display.Version + 7}, nil},
		{"no screen", &displaytest.Server{Width: 1 << 20}, errdefs.IsFailedPrecondition},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				tt.server.ServeConn(theirs)
				defer tt.server.Close()
				c, err := display.NewConn(t.Context(), ours, display.Options{})
				if tt.class != nil {
					if !tt.class(err) {
						t.Errorf("NewConn: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if h := c.Hello(); h.Build != tt.server.Build || h.Width == 0 {
					t.Errorf("hello %+v", h)
				}
			})
		})
	}
}

// say answers the client's hello with a message, or with bytes.
func say(t *testing.T, m *displayv1.ServerMessage, raw []byte) error {
	t.Helper()
	ours, theirs := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer theirs.Close()
		if err := display.ReadMessage(theirs, new(displayv1.ClientMessage)); err != nil {
			return
		}
		if m != nil {
			raw, _ = display.AppendMessage(nil, m)
		}
		theirs.Write(raw)
	}()
	c, err := display.NewConn(t.Context(), ours, display.Options{})
	if err == nil {
		c.Close()
	}
	<-served
	return err
}

func TestHandshakeRefusals(t *testing.T) {
	tests := []struct {
		name string
		m    *displayv1.ServerMessage
		raw  []byte
		says string
	}{
		{"version 0", &displayv1.ServerMessage{Request: 1, Message: &displayv1.ServerMessage_Hello{Hello: &displayv1.ServerHello{Width: 1, Height: 1, Fps: 1}}}, nil, "version 0"},
		{"an error", &displayv1.ServerMessage{Request: 1, Message: &displayv1.ServerMessage_Error{Error: &displayv1.Error{Message: "go away"}}}, nil, "go away"},
		{"another answer", &displayv1.ServerMessage{Request: 1, Message: &displayv1.ServerMessage_Done{Done: &displayv1.Done{}}}, nil, "not a hello"},
		{"nothing", nil, nil, "EOF"},
		{"half a length", nil, []byte{0, 0}, "EOF"},
		{"half a message", nil, []byte{0, 0, 0, 9, 8, 1}, "unexpected EOF"},
		{"too long", nil, []byte{0xff, 0xff, 0xff, 0xff}, "at most 8388608"},
		{"rubbish", nil, []byte{0, 0, 0, 2, 0xff, 0xff}, "decode"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := say(t, tt.m, tt.raw); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("NewConn: %v, want %q", err, tt.says)
			}
		})
	}
}

func TestSilentDisplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go io.Copy(io.Discard, theirs)
		began := time.Now()
		if _, err := display.NewConn(t.Context(), ours, display.Options{}); !errdefs.IsUnavailable(err) {
			t.Errorf("NewConn: %v", err)
		}
		if took := time.Since(began); took != display.DefaultRequestTimeout {
			t.Errorf("gave up after %v, want %v", took, display.DefaultRequestTimeout)
		}

		s := &displaytest.Server{OnMessage: func(m *displayv1.ClientMessage) bool { return m.GetGetState() != nil }}
		defer s.Close()
		c := connect(t, s, display.Options{RequestTimeout: time.Second})
		defer c.Close()
		if _, err := c.GetState(t.Context()); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "within 1s") {
			t.Errorf("GetState of a display that does not answer: %v", err)
		}
		if _, err := c.Screenshot(t.Context()); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("the next request: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.GetState(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("GetState with an ended context: %v", err)
		}
	})
}

func TestDisplayThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		s := &displaytest.Server{OnMessage: func(m *displayv1.ClientMessage) bool {
			if m.GetGetState() != nil {
				<-stuck
			}
			return false
		}}
		c := connect(t, s, display.Options{RequestTimeout: time.Minute})
		began := time.Now()
		go c.GetState(t.Context())
		synctest.Wait()
		if _, err := c.GetState(t.Context()); !errdefs.IsUnavailable(err) {
			t.Errorf("GetState: %v", err)
		}
		if took := time.Since(began); took != display.WriteTimeout {
			t.Errorf("the connection ended after %v, want %v", took, display.WriteTimeout)
		}
		<-c.Done()
		if !errdefs.IsUnavailable(c.Err()) {
			t.Errorf("Err: %v", c.Err())
		}
		c.Close()
		close(stuck)
		s.Close()
	})
}

func TestLevels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &displaytest.Server{}
		defer s.Close()
		c := connect(t, s, display.Options{})
		defer c.Close()
		var got []*displayv1.VideoPacket
		var failed []string
		open := func() *display.Level {
			l, err := c.OpenLevel(t.Context(), display.LevelConfig{
				BitrateKbps: 2000, MaxFPS: 30,
				OnPacket: func(p *displayv1.VideoPacket) { got = append(got, p) },
				OnFailed: func(reason string) { failed = append(failed, reason) },
			})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		l := open()
		if l.Encoder != "marks" || l.Width != 720 || l.Height != 1280 || l.Conn() != c {
			t.Errorf("level %+v", l)
		}
		s.Commit()
		synctest.Wait()
		if len(got) != 0 {
			t.Fatal("a packet without credit")
		}
		if err := l.Credit(2); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s.Commit()
		s.Commit()
		synctest.Wait()
		if len(got) != 2 || !got[0].GetKey() || got[1].GetKey() {
			t.Fatalf("packets %v", got)
		}
		if err := errors.Join(l.SetRate(900), l.ForceKeyFrame(), l.Credit(1)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(got) != 3 || !got[2].GetKey() {
			t.Errorf("no key frame after ForceKeyFrame")
		}
		if rate := s.Levels()[1].Rate; rate != 900 {
			t.Errorf("rate %d, want 900", rate)
		}
		second := open()
		s.Fail("device gone")
		synctest.Wait()
		if diff := cmp.Diff([]string{"device gone", "device gone"}, failed); diff != "" {
			t.Errorf("failures (-want +got):\n%s", diff)
		}
		second.Close()
		third := open()
		third.Close()
		third.Close()
		synctest.Wait()
		if n := len(s.Levels()); n != 0 {
			t.Errorf("%d levels are open after Close", n)
		}
		s.Send(&displayv1.ServerMessage{Message: &displayv1.ServerMessage_Packet{Packet: &displayv1.VideoPacket{Level: 3}}})
		synctest.Wait()
		if c.Err() != nil {
			t.Errorf("a late packet of a closed level ended the connection: %v", c.Err())
		}
		fourth := open()
		s.Send(&displayv1.ServerMessage{Message: &displayv1.ServerMessage_Packet{Packet: &displayv1.VideoPacket{Level: 4}}})
		<-c.Done()
		if !strings.Contains(c.Err().Error(), "without credit") {
			t.Errorf("Err: %v", c.Err())
		}
		if err := fourth.Credit(1); !errdefs.IsUnavailable(err) {
			t.Errorf("Credit on an ended connection: %v", err)
		}
	})
}

func TestUnknownIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &displaytest.Server{}
		defer s.Close()
		states := 0
		c := connect(t, s, display.Options{OnState: func(*displayv1.State) { states++ }})
		defer c.Close()
		unknown := &displayv1.ServerMessage{}
		unknown.ProtoReflect().SetUnknown([]byte{0xa2, 0x06, 0x01, 'x'}) // field 100, bytes
		s.Send(unknown)
		s.Send(&displayv1.ServerMessage{Request: 77, Message: &displayv1.ServerMessage_Done{Done: &displayv1.Done{}}})
		s.Send(&displayv1.ServerMessage{Message: &displayv1.ServerMessage_LevelFailed{LevelFailed: &displayv1.LevelFailed{Level: 9}}})
		s.Send(&displayv1.ServerMessage{Message: &displayv1.ServerMessage_State{State: &displayv1.State{HasContent: true}}})
		synctest.Wait()
		if c.Err() != nil || states != 1 {
			t.Errorf("connection %v, %d states reported", c.Err(), states)
		}
	})
}

func FuzzReadMessage(f *testing.F) {
	for _, m := range []*displayv1.ServerMessage{
		{Request: 1, Message: &displayv1.ServerMessage_Hello{Hello: &displayv1.ServerHello{Version: 1, Width: 1, Height: 1, Fps: 1}}},
		{Message: &displayv1.ServerMessage_Packet{Packet: &displayv1.VideoPacket{Level: 1, Key: true, Data: []byte{0, 0, 0, 1, 0x67}}}},
		{Request: 3, Message: &displayv1.ServerMessage_Screenshot{Screenshot: &displayv1.ScreenshotChunk{Data: []byte("x"), Last: true}}},
	} {
		b, err := display.AppendMessage(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(displayv1.ServerMessage)
		if err := display.ReadMessage(strings.NewReader(string(b)), m); err != nil {
			return
		}
		again, err := display.AppendMessage(nil, m)
		if err != nil {
			t.Fatalf("a message that was read cannot be written: %v", err)
		}
		if err := display.ReadMessage(strings.NewReader(string(again)), new(displayv1.ServerMessage)); err != nil {
			t.Fatalf("a message that was written cannot be read: %v", err)
		}
	})
}
