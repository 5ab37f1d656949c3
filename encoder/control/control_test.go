package control

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/phonehost/phonehost/encoder/h264"
	"github.com/phonehost/phonehost/encoder/internal/displayclient"
	"github.com/phonehost/phonehost/encoder/screen"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHello(t *testing.T) {
	d := start(t)
	c := dial(t, d)
	want := &displayv1.ServerHello{Version: 1, Build: "test", Width: 160, Height: 128, Fps: 30}
	if got := c.answer(displayclient.Hello()); !proto.Equal(got.GetHello(), want) {
		t.Errorf("answer %v, want %v", got, want)
	}
	c.send(displayclient.Hello())
	c.wantClosed()
}

func TestNotAHello(t *testing.T) {
	d := start(t)
	for name, raw := range map[string][]byte{
		"rubbish":       []byte("GET / HTTP/1.1\r\n\r\n"),
		"too large":     {0, 0x80, 0, 1},
		"not protobuf":  {0, 0, 0, 3, 0xff, 0xff, 0xff},
		"empty message": {0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, d)
			c.Write(raw)
			c.wantClosed()
		})
	}
	c := dial(t, d)
	c.wantError(displayclient.GetState(), displayv1.ErrorCode_ERROR_CODE_INVALID_ARGUMENT, "first message must be a hello")
	c.wantClosed()
	connect(t, d).answer(displayclient.GetState()) // the display goes on
}

func TestVideo(t *testing.T) {
	d := start(t)
	c := connect(t, d)
	d.draw(1)
	if got := c.answer(displayclient.OpenLevel(7, 1000, 30)).GetLevelOpened(); !proto.Equal(got, &displayv1.LevelOpened{
		Level: 7, Encoder: "libx264", Width: 160, Height: 128,
	}) {
		t.Errorf("opened: %v", got)
	}
	if !d.Watched() {
		t.Error("an open level does not count as watching")
	}
	c.send(displayclient.Credit(7, 1))
	p := c.packet()
	sps, err := h264.NewChecker(160, 128).Describe(p.GetData())
	if err != nil || !p.GetKey() || p.GetLevel() != 7 || p.GetFrame() != 1 {
		t.Errorf("first packet: level %d, frame %d, key %v: %+v, %v", p.GetLevel(), p.GetFrame(), p.GetKey(), sps, err)
	}
	if p.GetCommitTimeNs() == 0 || p.GetEncodeStartTimeNs() < p.GetCommitTimeNs() || p.GetEncodeEndTimeNs() < p.GetEncodeStartTimeNs() {
		t.Errorf("times: %d, %d, %d", p.GetCommitTimeNs(), p.GetEncodeStartTimeNs(), p.GetEncodeEndTimeNs())
	}
	c.send(displayclient.ForceKeyFrame(7))
	c.send(displayclient.Credit(7, 1))
	for p = c.packet(); !p.GetKey(); p = c.packet() { // a refresh may have come first
		c.send(displayclient.Credit(7, 1))
	}
	s := c.answer(displayclient.GetState()).GetState()
	if !s.GetHasContent() || s.GetFramesCommitted() != 1 || s.GetFramesEncoded() < 2 || s.GetClients() != 3 ||
		!slices.Equal(s.GetLevels(), []uint32{7}) {
		t.Errorf("state: %v", s)
	}
	c.send(displayclient.CloseLevel(7))
	if s := c.answer(displayclient.GetState()).GetState(); len(s.GetLevels()) != 0 || d.Watched() {
		t.Errorf("a closed level is listed: %v", s)
	}
}

func TestLevelErrors(t *testing.T) {
	d := start(t)
	c := connect(t, d)
	const invalid = displayv1.ErrorCode_ERROR_CODE_INVALID_ARGUMENT
	c.wantError(displayclient.OpenLevel(0, 1000, 30), invalid, "level 0")
	bad := displayclient.OpenLevel(1, 1000, 30)
	bad.GetOpenLevel().BitrateKbps = 10001
	c.wantError(bad, invalid, "100..10000")
	bad = displayclient.OpenLevel(1, 1000, 30)
	bad.GetOpenLevel().MaxFps = 0
	c.wantError(bad, invalid, "1..120")
	bad = displayclient.OpenLevel(1, 1000, 30)
	bad.GetOpenLevel().Encoder = "h264_magic"
	c.wantError(bad, displayv1.ErrorCode_ERROR_CODE_UNAVAILABLE, "h264_magic")
	if d.Watched() {
		t.Error("a level that did not open counts as watching")
	}
	if c.answer(displayclient.OpenLevel(1, 1000, 30)).GetLevelOpened() == nil {
		t.Error("a level that did not open cannot be opened again")
	}
	c.wantError(displayclient.OpenLevel(1, 1000, 30), invalid, "open already")
	for n := uint32(2); n <= maxLevels; n++ {
		c.answer(displayclient.OpenLevel(n, 1000, 30))
	}
	c.wantError(displayclient.OpenLevel(99, 1000, 30), displayv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "the most")
	m := displayclient.Credit(1, 17)
	c.wantError(m, invalid, "1..16")
	m = displayclient.Credit(55, 1)
	c.wantError(m, displayv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "level 55 is not open")
	c.wantError(&displayv1.ClientMessage{Message: &displayv1.ClientMessage_SetRate{
		SetRate: &displayv1.SetRate{Level: 1, BitrateKbps: 1 << 31},
	}}, invalid, "100..10000")
	c.wantError(&displayv1.ClientMessage{}, invalid, "does not know")
	c.send(displayclient.Credit(55, 1)) // no number, no answer
	c.send(&displayv1.ClientMessage{})  // of a later version
	if s := c.answer(displayclient.GetState()).GetState(); len(s.GetLevels()) != maxLevels {
		t.Errorf("levels: %v", s.GetLevels())
	}
}

func TestInput(t *testing.T) {
	d := start(t)
	c := connect(t, d)
	if a := c.answer(displayclient.Input(touch(0, TouchDown, 0, 127.5), touch(9, TouchDown, 159.9, 0), touch(0, TouchMove, 5, 6),
		touch(0, TouchUp, 0, 0), key(30, true), wheel(1, 2, -3, 0.5), text("a B\t~\n"))); a.GetDone() == nil {
		t.Fatalf("answer: %v", a)
	}
	want := []string{"touch 0 1 0,127.5", "touch 9 1 159.9,0", "touch 0 2 5,6", "touch 0 3 0,0", "key 30 true", "wheel 1,2 by -3,0.5", `text "a B\t~\n"`}
	if d := cmp.Diff(want, d.guest.take()); d != "" {
		t.Error(d)
	}
	d.guest.err = fmt.Errorf("no window has the focus: %w", errdefs.ErrFailedPrecondition)
	c.wantError(displayclient.Input(key(30, false)), displayv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "no window has the focus")
	d.guest.err = nil
	// Touch 9 and key 30 are still down, and are given up when a newer client comes.
	connect(t, d)
	if d := cmp.Diff([]string{"touch 0 4 0,0", "key 30 false"}, d.guest.take()); d != "" {
		t.Error(d)
	}
	c.wantClosed()
}

func TestInputIsAllOrNone(t *testing.T) {
	d := start(t)
	c := connect(t, d)
	for _, test := range []struct {
		e     *displayv1.InputEvent
		words string
	}{
		{touch(10, TouchDown, 1, 1), "touch point 10: 0..9"},
		{touch(0, 0, 1, 1), "touch action 0"},
		{touch(0, 5, 1, 1), "touch action 5"},
		{touch(0, TouchDown, 160, 1), "outside the screen of 160x128"},
		{touch(0, TouchMove, 1, 128), "outside"},
		{touch(0, TouchDown, -0.1, 1), "outside"},
		{touch(0, TouchDown, math.NaN(), 1), "outside"},
		{wheel(1, 1, math.NaN(), 0), "wheel by"},
		{key(0, true), "key code 0: 1..247"},
		{key(248, true), "key code 248"},
		{wheel(1, 1, 1001, 0), "wheel by"},
		{wheel(-1, 1, 1, 0), "outside"},
		{text("naïve"), "byte 0xc3 at 2"},
		{text("\x7f"), "byte 0x7f"},
		{text(strings.Repeat("a", maxText+1)), "at most 4096"},
		{&displayv1.InputEvent{}, "is empty"},
	} {
		c.wantError(displayclient.Input(key(30, true), test.e), displayv1.ErrorCode_ERROR_CODE_INVALID_ARGUMENT, test.words)
	}
	c.wantError(displayclient.Input(slices.Repeat([]*displayv1.InputEvent{key(1, true)}, maxEvents+1)...),
		displayv1.ErrorCode_ERROR_CODE_INVALID_ARGUMENT, "at most 1024")
	if got := d.guest.take(); len(got) != 0 {
		t.Errorf("events of refused batches were delivered: %v", got)
	}
}

func TestNewestClientWins(t *testing.T) {
	d := start(t)
	first := connect(t, d)
	first.answer(displayclient.OpenLevel(1, 1000, 30))
	stranger := dial(t, d) // says nothing, and so replaces nobody
	second := connect(t, d)
	first.wantClosed()
	if s := second.answer(displayclient.GetState()).GetState(); len(s.GetLevels()) != 0 || d.Watched() {
		t.Errorf("levels of the older client are open: %v", s.GetLevels())
	}
	stranger.Close()
	second.answer(displayclient.GetState())
}

func TestContentIsTold(t *testing.T) {
	d := start(t)
	c := connect(t, d)
	d.draw(1)
	if s := c.next().GetState(); !s.GetHasContent() {
		t.Errorf("state: %v", s)
	}
	d.screen.SetContent(false)
	if s := c.next().GetState(); s == nil || s.GetHasContent() {
		t.Errorf("state: %v", s)
	}
}

func TestScreenshot(t *testing.T) {
	d := startSized(t, 160, 200)
	c := connect(t, d)
	shot := displayclient.Screenshot()
	c.wantError(shot, displayv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "no content")
	noise := make([]byte, 160*200*4) // does not compress, so it takes more than one chunk
	for i, v := 0, uint32(1); i < len(noise); i++ {
		v = v*1664525 + 1013904223
		noise[i] = byte(v >> 24)
	}
	d.screen.Commit(time.Now(), func(s *screen.Canvas) { s.Copy(s.Bounds(), noise, 640, screen.XRGB8888) })
	d.screen.SetContent(true)
	var file bytes.Buffer
	a := c.answer(shot)
	for chunks := 1; ; chunks++ {
		if n := len(a.GetScreenshot().GetData()); n > chunkSize {
			t.Errorf("a chunk has %d bytes", n)
		}
		file.Write(a.GetScreenshot().GetData())
		if a.GetScreenshot().GetLast() {
			if chunks < 2 {
				t.Errorf("%d chunks", chunks)
			}
			break
		}
		a = c.next()
	}
	img, err := png.Decode(&file)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []image.Point{{0, 0}, {159, 199}, {33, 77}} {
		i := (p.Y*160 + p.X) * 4
		want := color.RGBA{noise[i+2], noise[i+1], noise[i], 255}
		if got := color.RGBAModel.Convert(img.At(p.X, p.Y)); got != want {
			t.Errorf("pixel %v = %v, want %v", p, got, want)
		}
	}
}

func TestStrangersAreBounded(t *testing.T) {
	d := start(t)
	var held []*client
	for range maxStrangers {
		held = append(held, dial(t, d))
	}
	dial(t, d).wantClosed()
	held[0].send(displayclient.Hello())
	if held[0].next().GetHello() == nil {
		t.Error("a stranger that says hello is not answered")
	}
}

func TestNewRefusesIncompleteConfig(t *testing.T) {
	if _, err := New(Config{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("New(Config{}) = %v", err)
	}
}

func FuzzMessages(f *testing.F) {
	for _, m := range []*displayv1.ClientMessage{displayclient.Hello(), displayclient.OpenLevel(2, 1000, 30), displayclient.Credit(1, 2), displayclient.GetState(),
		displayclient.Input(touch(1, TouchDown, 5, 5), key(3, true), wheel(1, 2, 3, 4), text("abc"))} {
		b, _ := proto.Marshal(m)
		f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := messageReader{in: bytes.NewReader(data)}
		for {
			m, err := r.next()
			if err != nil {
				return
			}
			events := m.GetInput().GetEvents()
			if checkInput(events, 100, 50) != nil {
				continue
			}
			for _, e := range events { // what passed the check is within its bounds
				if p := e.GetTouch(); p != nil && p.GetAction() <= 2 && !(p.GetX() >= 0 && p.GetX() < 100 && p.GetY() >= 0 && p.GetY() < 50) {
					t.Fatalf("touch outside the screen passed: %v", p)
				}
				if err := deliver(&guest{}, e); err != nil {
					t.Fatal(err)
				}
				new(held).note(e)
			}
		}
	})
}
