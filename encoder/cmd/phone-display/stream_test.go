package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/phonehost/phonehost/encoder/h264"
	"github.com/phonehost/phonehost/encoder/internal/benchframes"
	"github.com/phonehost/phonehost/encoder/internal/displayclient"
	"github.com/phonehost/phonehost/encoder/internal/testguest"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
	"github.com/phonehost/phonehost/scripts/testenv"
)

const streamWidth, streamHeight = 720, 1280

// session is a guest and an agent at one display, one level open at 4 Mbit/s and 30 frames per second.
type session struct {
	*display
	t      testing.TB
	guest  *testguest.Guest
	client *displayclient.Client
	shown  uint64 // frames that were committed and differed
}

func newSession(t testing.TB) *session {
	d := startDisplay(t, streamWidth, streamHeight, 30)
	s := &session{display: d, t: t, guest: d.guest(t, 3), client: d.client(t)}
	t.Cleanup(func() { s.guest.Close(); s.client.Close() })
	if a := s.call(displayclient.OpenLevel(1, 4000, 30)); a.GetLevelOpened().GetWidth() != streamWidth {
		t.Fatalf("open level: %v", a)
	}
	return s
}

func (s *session) call(m *displayv1.ClientMessage) *displayv1.ServerMessage {
	s.t.Helper()
	a, err := s.client.Call(m)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// show commits a frame that differs from the last and returns the packets up to the first that shows it.
func (s *session) show(frame []byte) []*displayv1.VideoPacket {
	s.t.Helper()
	copy(s.guest.Buffer(int(s.shown%3)), frame)
	if err := s.guest.Show(int(s.shown % 3)); err != nil {
		s.t.Fatal(err)
	}
	s.shown++
	var packets []*displayv1.VideoPacket
	for {
		packets = append(packets, s.packet())
		if packets[len(packets)-1].GetFrame() == s.shown {
			return packets
		}
	}
}

// packet gives credit for a packet and returns it.
func (s *session) packet() *displayv1.VideoPacket {
	s.t.Helper()
	if err := s.client.Send(displayclient.Credit(1, 1)); err != nil {
		s.t.Fatal(err)
	}
	p, err := s.client.Packet()
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// refreshed returns the packets that refresh a still screen: the last is the larger.
func (s *session) refreshed() []*displayv1.VideoPacket {
	return []*displayv1.VideoPacket{s.packet(), s.packet()}
}

func join(packets []*displayv1.VideoPacket) []byte {
	var stream []byte
	for _, p := range packets {
		stream = append(stream, p.GetData()...)
	}
	return stream
}

// decode decodes a stream by ffmpeg, which must find nothing to complain about, and returns its frames as B, G, R, X.
func decode(t testing.TB, stream []byte) [][]byte {
	t.Helper()
	cmd := exec.Command(testenv.Tool(t, "ffmpeg"), "-v", "warning", "-xerror", "-f", "h264", "-i", "-", "-fps_mode", "passthrough",
		"-sws_flags", "accurate_rnd+full_chroma_int", "-pix_fmt", "bgr0", "-f", "rawvideo", "-")
	cmd.Stdin = bytes.NewReader(stream)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil || complaints.Len() > 0 {
		t.Fatalf("ffmpeg: %v\n%s", err, &complaints)
	}
	return slices.Collect(slices.Chunk(out.Bytes(), streamWidth*streamHeight*4))
}

// ssim is the structural similarity of two pictures (Wang et al. 2004), over all three colours, in windows of 8x8.
func ssim(a, b []byte, width, height int) float64 {
	var sum float64
	n := 0
	for y := 0; y+8 <= height; y += 8 {
		for x := 0; x+8 <= width; x += 8 {
			for c := range 3 {
				sum += window(a, b, (y*width+x)*4+c, width*4)
				n++
			}
		}
	}
	return sum / float64(n)
}

func window(a, b []byte, at, stride int) float64 {
	const c1, c2 = 0.01 * 255 * 0.01 * 255, 0.03 * 255 * 0.03 * 255
	var sa, sb, saa, sbb, sab float64
	for y := range 8 {
		for x := range 8 {
			p, q := float64(a[at+y*stride+x*4]), float64(b[at+y*stride+x*4])
			sa, sb, saa, sbb, sab = sa+p, sb+q, saa+p*p, sbb+q*q, sab+p*q
		}
	}
	ma, mb := sa/64, sb/64
	va, vb, cov := saa/64-ma*ma, sbb/64-mb*mb, sab/64-ma*mb
	return (2*ma*mb + c1) * (2*cov + c2) / ((ma*ma + mb*mb + c1) * (va + vb + c2))
}

func source(t testing.TB, kind benchframes.Kind) func(n int) []byte {
	src, err := benchframes.New(kind, streamWidth, streamHeight, 1)
	if err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, src.Size())
	return func(n int) []byte { src.Draw(n, frame); return frame }
}

// TestStream records a scrolling list and looks at the recording as a viewer would.
func TestStream(t *testing.T) {
	testenv.Tool(t, "ffmpeg")
	s, draw := newSession(t), source(t, benchframes.Scroll)
	var packets []*displayv1.VideoPacket
	for i := range 40 {
		packets = append(packets, s.show(draw(i))...)
	}
	last := bytes.Clone(draw(39))
	packets = append(packets, s.refreshed()...)
	frames := decode(t, join(packets))
	if len(frames) != len(packets) {
		t.Fatalf("%d frames of %d packets", len(frames), len(packets))
	}
	if q := ssim(frames[len(frames)-1], last, streamWidth, streamHeight); q < 0.95 {
		t.Errorf("similarity of the last frame with the screen is %.4f, want at least 0.95", q)
	} else {
		t.Logf("similarity after the refresh: %.4f, before: %.4f", q, ssim(frames[len(frames)-3], last, streamWidth, streamHeight))
	}
	for i, p := range packets {
		if p.GetKey() != (i == 0) {
			t.Errorf("packet %d: key %v", i, p.GetKey())
		}
		if p.GetEncodeStartTimeNs() < p.GetCommitTimeNs() || p.GetEncodeEndTimeNs() < p.GetEncodeStartTimeNs() {
			t.Errorf("packet %d: times %d, %d, %d", i, p.GetCommitTimeNs(), p.GetEncodeStartTimeNs(), p.GetEncodeEndTimeNs())
		}
	}
	checkScreenshot(t, s, last)
	probe(t, join(packets), len(packets))

	// A viewer that joins late gets a key frame of the screen as it is, though nothing changes.
	s.client.Send(displayclient.ForceKeyFrame(1))
	late := append([]*displayv1.VideoPacket{s.packet()}, s.refreshed()...)
	if !late[0].GetKey() || late[0].GetFrame() != s.shown {
		t.Errorf("first packet of a late viewer: key %v, frame %d of %d", late[0].GetKey(), late[0].GetFrame(), s.shown)
	}
	frames = decode(t, join(late))
	if q := ssim(frames[2], last, streamWidth, streamHeight); q < 0.95 {
		t.Errorf("a late viewer sees the screen with a similarity of %.4f", q)
	}
}

// checkScreenshot compares a screenshot with the committed frame, bit by bit.
func checkScreenshot(t *testing.T, s *session, want []byte) {
	t.Helper()
	var file bytes.Buffer
	a := s.call(displayclient.Screenshot())
	for {
		file.Write(a.GetScreenshot().GetData())
		if a.GetScreenshot() == nil || a.GetScreenshot().GetLast() {
			break
		}
		var err error
		if a, err = s.client.Receive(); err != nil {
			t.Fatal(err)
		}
	}
	img, err := png.Decode(&file)
	if err != nil {
		t.Fatalf("screenshot: %v", err)
	}
	got := img.(*image.RGBA)
	for i := 0; i < len(want); i += 4 {
		if got.Pix[i] != want[i+2] || got.Pix[i+1] != want[i+1] || got.Pix[i+2] != want[i] {
			t.Fatalf("screenshot differs at pixel %d", i/4)
		}
	}
}

// probe asks ffprobe what the stream is.
func probe(t *testing.T, stream []byte, frames int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "stream.h264")
	if err := os.WriteFile(file, stream, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(testenv.Tool(t, "ffprobe"), "-v", "error", "-of", "json", "-show_streams", "-show_frames", file).Output()
	if err != nil {
		t.Fatalf("ffprobe: %v", err)
	}
	var found struct {
		Streams []struct {
			Profile string `json:"profile"`
			Width   int    `json:"width"`
			Height  int    `json:"height"`
			Level   int    `json:"level"`
			Reorder int    `json:"has_b_frames"`
			Refs    int    `json:"refs"`
			Range   string `json:"color_range"`
			Space   string `json:"color_space"`
			Rate    string `json:"r_frame_rate"`
		} `json:"streams"`
		Frames []struct {
			Type string `json:"pict_type"`
		} `json:"frames"`
	}
	if err := json.Unmarshal(out, &found); err != nil || len(found.Streams) != 1 {
		t.Fatalf("ffprobe printed %v, %s", err, out)
	}
	got := fmt.Sprintf("%+v", found.Streams[0])
	want := "{Profile:Constrained Baseline Width:720 Height:1280 Level:32 Reorder:0 Refs:1 Range:tv Space:smpte170m Rate:30/1}"
	if got != want {
		t.Errorf("the stream is %s, want %s", got, want)
	}
	for i, f := range found.Frames {
		if (f.Type == "I") != (i == 0) || (f.Type == "P") != (i > 0) {
			t.Errorf("frame %d is of type %s", i, f.Type)
		}
	}
	if len(found.Frames) != frames {
		t.Errorf("%d frames, want %d", len(found.Frames), frames)
	}
	for n := range h264.Split(stream) {
		if n.Type() != h264.TypeSPS {
			continue
		}
		sps, err := h264.ParseSPS(n)
		if err != nil || !sps.Restricted || sps.Reorder != 0 || sps.DecBuffering > 1 || sps.Matrix != h264.MatrixBT601 || sps.FullRange {
			t.Errorf("sequence parameter set %+v, %v", sps, err)
		}
	}
}

// TestColours shows bars of known colours and compares what a decoder makes of them, red, green and blue.
func TestColours(t *testing.T) {
	testenv.Tool(t, "ffmpeg")
	s := newSession(t)
	bars := [][3]byte{{255, 255, 255}, {0, 255, 255}, {255, 255, 0}, {0, 255, 0}, {255, 0, 255}, {0, 0, 255}, {255, 0, 0}, {0, 0, 0}, {60, 120, 200}, {128, 128, 128}}
	frame := make([]byte, streamWidth*streamHeight*4)
	width := streamWidth / len(bars)
	for i := 0; i < len(frame); i += 4 {
		copy(frame[i:], bars[i/4%streamWidth/width][:])
	}
	packets := append(s.show(frame), s.refreshed()...)
	frames := decode(t, join(packets))
	for i, want := range bars {
		x := i*width + width/2
		got := frames[len(frames)-1][(streamHeight/2*streamWidth+x)*4:][:3]
		for c := range 3 {
			if math.Abs(float64(got[c])-float64(want[c])) > 6 {
				t.Errorf("bar %d is %v, want %v (blue, green, red)", i, got, want)
			}
		}
	}
}

// TestRate lowers the rate of a moving picture and finds the stream smaller, without a key frame.
func TestRate(t *testing.T) {
	s, draw := newSession(t), source(t, benchframes.Motion)
	size := func(from, to int) (n int) {
		for i := from; i < to; i++ {
			packets := s.show(draw(i))
			for j, p := range packets {
				if p.GetKey() && (i > 0 || j > 0) {
					t.Error("a key frame that nobody asked for")
				}
			}
			n += len(packets[len(packets)-1].GetData()) // before it may come refreshes, if the machine is slow
		}
		return n * 8 * 30 / (to - from) / 1000 // kbit/s
	}
	fast := size(0, 20)
	s.client.Send(&displayv1.ClientMessage{Message: &displayv1.ClientMessage_SetRate{SetRate: &displayv1.SetRate{Level: 1, BitrateKbps: 1000}}})
	size(20, 22)
	slow := size(22, 42)
	s.client.Send(&displayv1.ClientMessage{Message: &displayv1.ClientMessage_SetRate{SetRate: &displayv1.SetRate{Level: 1, BitrateKbps: 4000}}})
	size(42, 44)
	again := size(44, 64)
	t.Logf("%d, %d, %d kbit/s", fast, slow, again)
	if fast > 4200 || fast < 2500 || slow > 1200 || again < 2500 || again > 4200 {
		t.Errorf("%d, %d and %d kbit/s at rates of 4000, 1000 and 4000", fast, slow, again)
	}
}

// TestStillScreen finds that a screen on which nothing changes costs nothing, watched or not.
func TestStillScreen(t *testing.T) {
	s, draw := newSession(t), source(t, benchframes.Still)
	s.show(draw(0))
	s.refreshed()
	s.client.Send(displayclient.Credit(1, 16))
	before := s.call(displayclient.GetState()).GetState()
	for range 30 { // the same pixels again
		copy(s.guest.Buffer(1), draw(0))
		if err := s.guest.Show(1); err != nil {
			t.Fatal(err)
		}
	}
	for s.call(displayclient.GetState()).GetState().GetFramesCommitted() < before.GetFramesCommitted()+30 {
	}
	after := s.call(displayclient.GetState()).GetState()
	if after.GetFramesChanged() != before.GetFramesChanged() || after.GetFramesEncoded() != before.GetFramesEncoded() {
		t.Errorf("30 frames of the same pixels: before %v, after %v", before, after)
	}
}

// TestNobodyWatches finds that nothing is encoded without credit, and that the newest frame is what the first credit buys.
func TestNobodyWatches(t *testing.T) {
	s, draw := newSession(t), source(t, benchframes.Motion)
	for i := range 30 {
		copy(s.guest.Buffer(i%3), draw(i))
		if err := s.guest.Show(i % 3); err != nil {
			t.Fatal(err)
		}
		for s.call(displayclient.GetState()).GetState().GetFramesCommitted() < uint64(i+1) {
		}
	}
	if n := s.call(displayclient.GetState()).GetState().GetFramesEncoded(); n != 0 {
		t.Errorf("%d frames were encoded without credit", n)
	}
	if p := s.packet(); p.GetFrame() != 30 || time.Now().UnixNano() < p.GetEncodeEndTimeNs() {
		t.Errorf("the first packet is of frame %d, want 30", p.GetFrame())
	}
}
