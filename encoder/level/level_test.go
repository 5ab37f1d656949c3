package level

import (
	"errors"
	"image/color"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/encoder/avcodec"
	"github.com/phonehost/phonehost/encoder/convert"
	"github.com/phonehost/phonehost/encoder/h264"
	"github.com/phonehost/phonehost/encoder/screen"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a level on a screen, encoding by x264, whose packets are kept.
type rig struct {
	t      testing.TB
	screen *screen.Screen
	level  *Level

	mu      sync.Mutex
	opened  []error
	packets []Packet
	failed  []error
}

// x264 opens the encoder that displays use.
func x264(width, height, fps, kbps int) (Encoder, error) {
	e, err := avcodec.Open(avcodec.Config{Width: width, Height: height, FPS: fps, Kbps: kbps})
	if err != nil {
		return nil, err
	}
	return e, nil
}

func newRig(t testing.TB, width, height int, open func(width, height, fps, kbps int) (Encoder, error)) *rig {
	t.Helper()
	s, err := screen.New(width, height)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, screen: s}
	r.level, err = Start(Config{
		Screen: s, Open: open, Kbps: 4000, FPS: 30,
		Opened: func(_ Info, err error) { r.locked(func() { r.opened = append(r.opened, err) }) },
		Packet: func(p Packet) {
			p.Data = slices.Clone(p.Data)
			r.locked(func() { r.packets = append(r.packets, p) })
		},
		Failed: func(err error) { r.locked(func() { r.failed = append(r.failed, err) }) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.level.Close)
	return r
}

func (r *rig) locked(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do()
}

// fill commits a frame of one colour.
func (r *rig) fill(shade uint8) {
	r.screen.Commit(time.Now(), func(c *screen.Canvas) { c.Fill(c.Bounds(), color.RGBA{R: shade, G: 255 - shade, B: shade / 2}) })
}

// take returns the packets since the last call, once everything has come to rest at the present time of the bubble.
func (r *rig) take() []Packet {
	synctest.Wait()
	var p []Packet
	r.locked(func() { p, r.packets = r.packets, nil })
	return p
}

func (r *rig) want(what string, frames ...uint64) []Packet {
	r.t.Helper()
	got := r.take()
	var numbers []uint64
	for _, p := range got {
		numbers = append(numbers, p.Frame)
	}
	if !slices.Equal(numbers, frames) {
		r.t.Fatalf("%s: packets of frames %v, want %v", what, numbers, frames)
	}
	return got
}

// drain lets the first key frame and its refresh pass.
func (r *rig) drain() {
	r.level.Credit(100)
	time.Sleep(time.Second)
	r.take()
}

func TestNothingWithoutCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 64, 64, x264)
		for i := range 50 {
			r.fill(uint8(i))
			time.Sleep(33 * time.Millisecond)
		}
		r.level.ForceKeyFrame()
		time.Sleep(time.Minute)
		r.want("without credit")
		if converted, encoded := r.level.Counters(); converted != 0 || encoded != 0 {
			t.Errorf("%d conversions and %d encodings without credit", converted, encoded)
		}
		r.level.Credit(1)
		first := r.want("one credit", 50)
		if !first[0].Key {
			t.Error("the first packet is no key frame")
		}
		time.Sleep(time.Minute)
		r.want("credit is spent")
	})
}

func TestStillScreenIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 64, 64, x264)
		r.level.Credit(100)
		r.fill(7)
		time.Sleep(RefreshAfter / 2)
		r.want("a key frame", 1)
		time.Sleep(RefreshAfter)
		for _, p := range r.want("two refreshing packets", 1, 1) {
			if p.Key {
				t.Error("a refreshing packet is a key frame")
			}
		}
		_, before := r.level.Counters()
		time.Sleep(time.Hour)
		r.screen.Commit(time.Now(), func(*screen.Canvas) {}) // a frame in which nothing differs
		time.Sleep(time.Hour)
		r.want("a still screen")
		if _, after := r.level.Counters(); after != before {
			t.Errorf("%d frames were encoded of a still screen", after-before)
		}
	})
}

func TestCommitIsEncodedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 64, 64, x264)
		r.drain()
		r.fill(1)
		p := r.want("at once", 1)[0]
		if !p.CommitTime.Equal(p.EncodeStart) {
			t.Errorf("encoding began %v after the commit", p.EncodeStart.Sub(p.CommitTime))
		}
		time.Sleep(17 * time.Millisecond) // a trembling guest: nearly half an interval early
		r.fill(2)
		r.want("early", 2)
	})
}

func TestFrameRateHoldsAndNewestWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 64, 64, x264)
		r.drain()
		r.level.Credit(1000)
		var last uint64
		frames := 0
		for i := range 240 { // two seconds at 120 frames per second, for a level of 30
			r.fill(uint8(i))
			time.Sleep(time.Second / 120)
			for _, p := range r.take() {
				if p.Frame <= last {
					t.Fatalf("frame %d after frame %d", p.Frame, last)
				}
				last = p.Frame
				frames++
			}
		}
		if frames < 60 || frames > 64 { // a twentieth more than the rate, and the first one
			t.Errorf("%d packets in two seconds, want 60 to 64", frames)
		}
		time.Sleep(50 * time.Millisecond)
		if p := r.take(); last != 240 && (len(p) != 1 || p[0].Frame != 240) {
			t.Errorf("the newest frame was not sent: %v", p)
		}
	})
}

// TestWaitFades brings the level ahead of its rate by two frames in quick succession, and goes on at just its rate: the wait must not stay.
func TestWaitFades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 64, 64, x264)
		r.drain()
		r.level.Credit(1000)
		r.fill(0)
		time.Sleep(5 * time.Millisecond)
		var waits []time.Duration
		for i := range 30 {
			r.fill(uint8(i + 1))
			time.Sleep(time.Second / 30)
			for _, p := range r.take() {
				waits = append(waits, p.EncodeStart.Sub(p.CommitTime))
			}
		}
		if len(waits) < 30 {
			t.Fatalf("%d packets of 31 frames", len(waits))
		}
		if most := slices.Max(waits); most == 0 {
			t.Error("no frame ever waited: the test shows nothing")
		}
		if last := waits[len(waits)-1]; last != 0 {
			t.Errorf("after a second at the level's own rate frames still wait %v before they are encoded", last)
		}
	})
}

func TestKeyFrameOnRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 64, 64, x264)
		r.fill(9)
		r.drain()
		r.level.ForceKeyFrame()
		p := r.want("a key frame of the last frame", 1)[0]
		if !p.Key {
			t.Error("it is not a key frame")
		}
		time.Sleep(time.Minute)
		r.want("the refresh after it", 1, 1)
		r.fill(10)
		if r.want("the next frame", 2)[0].Key {
			t.Error("a key frame that nobody asked for")
		}
	})
}

func TestSetRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 64, 64, x264)
		r.drain()
		if err := r.level.SetRate(99, 0); !errdefs.IsInvalidArgument(err) {
			t.Errorf("SetRate(99, 0) = %v", err)
		}
		if err := r.level.SetRate(500, 121); !errdefs.IsInvalidArgument(err) {
			t.Errorf("SetRate(500, 121) = %v", err)
		}
		if err := r.level.SetRate(500, 5); err != nil {
			t.Fatal(err)
		}
		frames := 0
		for i := range 120 {
			r.fill(uint8(i))
			time.Sleep(time.Second / 60)
		}
		for _, p := range r.take() {
			if frames++; p.Key {
				t.Error("a change of rate made a key frame")
			}
		}
		if frames < 9 || frames > 12 {
			t.Errorf("%d packets in two seconds at 5 per second", frames)
		}
	})
}

func TestStartChecksRate(t *testing.T) {
	for _, c := range []Config{{Kbps: 99, FPS: 30}, {Kbps: 10001, FPS: 30}, {Kbps: 100, FPS: 0}, {Kbps: 100, FPS: 121}} {
		if _, err := Start(c); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Start(%d kbit/s, %d fps) = %v", c.Kbps, c.FPS, err)
		}
	}
}

func TestOpenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("no such device")
		r := newRig(t, 64, 64, func(int, int, int, int) (Encoder, error) { return nil, broken })
		r.level.Credit(1)
		r.want("nothing")
		if len(r.opened) != 1 || !errors.Is(r.opened[0], broken) || len(r.failed) != 0 {
			t.Errorf("opened %v, failed %v", r.opened, r.failed)
		}
	})
}

// breaking is an encoder that fails, as a device does that is unplugged, or writes what nobody can decode.
type breaking struct {
	picture convert.Picture
	data    []byte
	err     error
	closed  *bool
}

func (b breaking) Name() string                      { return "breaking" }
func (b breaking) Picture() (convert.Picture, error) { return b.picture, nil }
func (b breaking) SetRate(int, int)                  {}
func (b breaking) Close()                            { *b.closed = true }
func (b breaking) Encode(dst []byte, _ h264.Quality, _ bool) ([]byte, bool, error) {
	return append(dst, b.data...), true, b.err
}

func TestEncoderFails(t *testing.T) {
	for name, b := range map[string]breaking{
		"error":      {err: errors.New("device is gone")},
		"no picture": {data: []byte{0, 0, 1, 9, 16}},
		"no headers": {data: []byte{0, 0, 1, 0x65, 1, 2, 3}},
		"rubbish":    {data: []byte("rubbish")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				closed := false
				b.closed = &closed
				b.picture, _ = convert.NewPicture(64, 64)
				r := newRig(t, 64, 64, func(int, int, int, int) (Encoder, error) { return b, nil })
				r.level.Credit(5)
				r.want("nothing")
				if len(r.failed) != 1 || !closed {
					t.Errorf("failed %v, closed %v", r.failed, closed)
				}
			})
		})
	}
}
