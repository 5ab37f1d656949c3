package screen

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/color"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newScreen(t testing.TB, width, height int) *Screen {
	t.Helper()
	s, err := New(width, height)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// damage reads and returns a copy of what the reader is told.
func damage(r *Reader) (v View) {
	r.Read(func(in View) {
		v = in
		v.Pix = bytes.Clone(in.Pix)
		v.Damage = append([]image.Rectangle(nil), in.Damage...)
	})
	return v
}

func TestNewRefusesSizes(t *testing.T) {
	for _, size := range [][2]int{{0, 100}, {100, 15}, {MaxSize + 1, 100}, {100, -1}} {
		if _, err := New(size[0], size[1]); !errdefs.IsInvalidArgument(err) {
			t.Errorf("New(%d, %d) = %v, want InvalidArgument", size[0], size[1], err)
		}
	}
}

func TestDamageIsWhatDiffers(t *testing.T) {
	s := newScreen(t, 300, 200)
	full := image.Rect(0, 0, 300, 200)
	r := s.NewReader()
	defer r.Close()
	if v := damage(r); !cmp.Equal(v.Damage, []image.Rectangle{full}) || v.Frame != 0 {
		t.Fatalf("first read: %+v", v.Damage)
	}

	frame := make([]byte, 300*200*4)
	commit := func() bool {
		return s.Commit(time.Unix(1, 0), func(c *Canvas) { c.Copy(full, frame, 1200, XRGB8888) })
	}
	tests := []struct {
		name  string
		paint []image.Point
		want  []image.Rectangle
	}{
		{"nothing", nil, nil},
		{"first pixel", []image.Point{{0, 0}}, []image.Rectangle{image.Rect(0, 0, 64, 64)}},
		{"last pixel", []image.Point{{299, 199}}, []image.Rectangle{image.Rect(256, 192, 300, 200)}},
		{"two neighbours", []image.Point{{63, 70}, {64, 100}}, []image.Rectangle{image.Rect(0, 64, 128, 128)}},
		{"a column", []image.Point{{5, 0}, {6, 64}, {7, 130}}, []image.Rectangle{image.Rect(0, 0, 64, 192)}},
		{"two corners", []image.Point{{0, 0}, {299, 0}, {0, 199}}, []image.Rectangle{
			image.Rect(0, 0, 64, 64), image.Rect(256, 0, 300, 64), image.Rect(0, 192, 64, 200)}},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, p := range test.paint {
				frame[p.Y*1200+p.X*4+i%3]++
			}
			if got := commit(); got != (test.want != nil) {
				t.Errorf("changed = %v", got)
			}
			v := damage(r)
			if d := cmp.Diff(test.want, v.Damage); d != "" {
				t.Error(d)
			}
			if !bytes.Equal(v.Pix, frame) {
				t.Error("the canvas is not what was committed")
			}
		})
	}
	if got, want := s.Counters(), (Counters{Committed: 6, Changed: 5}); got != want {
		t.Errorf("counters = %+v, want %+v", got, want)
	}
}

// TestAgainstModel draws at random and compares canvas and damage with a model that compares pixel by pixel.
func TestAgainstModel(t *testing.T) {
	const w, h = 203, 150
	rnd := rand.New(rand.NewPCG(1, 2))
	s := newScreen(t, w, h)
	fast, slow := s.NewReader(), s.NewReader()
	defer fast.Close()
	defer slow.Close()
	model := make([]byte, w*h*4)
	seen := map[*Reader][]byte{fast: make([]byte, w*h*4), slow: make([]byte, w*h*4)}
	check := func(r *Reader) {
		v := damage(r)
		if !bytes.Equal(v.Pix, model) {
			t.Fatal("the canvas is not the model")
		}
		for y := range h {
			for x := range w {
				i := (y*w + x) * 4
				if !bytes.Equal(model[i:i+4], seen[r][i:i+4]) && !covered(v.Damage, image.Pt(x, y)) {
					t.Fatalf("pixel (%d,%d) differs and is not in %v", x, y, v.Damage)
				}
			}
		}
		copy(seen[r], v.Pix)
	}
	check(fast)
	for range 300 {
		s.Commit(time.Now(), func(c *Canvas) {
			for range 1 + rnd.IntN(3) {
				drawRandom(rnd, c, model, w, h)
			}
		})
		check(fast)
		if rnd.IntN(5) == 0 {
			check(slow)
		}
	}
}

func covered(rects []image.Rectangle, p image.Point) bool {
	for _, r := range rects {
		if p.In(r) {
			return true
		}
	}
	return false
}

// drawRandom does one operation on the canvas and the same on the model, in the plainest way.
func drawRandom(rnd *rand.Rand, c *Canvas, model []byte, w, h int) {
	dst := image.Rect(rnd.IntN(w+40)-20, rnd.IntN(h+40)-20, rnd.IntN(w+40)-20, rnd.IntN(h+40)-20)
	stride := dst.Dx()*4 + 4*rnd.IntN(3)
	src := make([]byte, stride*dst.Dy()+8)
	few := byte(1 + rnd.IntN(3))
	for i := range src {
		src[i] = byte(rnd.Uint32()) % few // mostly equal pixels, so that some tiles stay clean
	}
	if rnd.IntN(2) == 0 {
		for i := 3; i < len(src); i += 4 {
			src[i] = []byte{0, 90, 255}[rnd.IntN(3)]
			for j := i - 3; j < i; j++ {
				src[j] = min(src[j], src[i])
			}
		}
	}
	f := Format(rnd.IntN(4))
	op := rnd.IntN(3)
	switch op {
	case 0:
		c.Copy(dst, src, stride, f)
	case 1:
		c.Blend(dst, src, stride, f)
	case 2:
		c.Fill(dst, color.RGBA{R: 1, G: few, B: 3, A: 9})
	}
	for y := dst.Min.Y; y < dst.Max.Y; y++ {
		for x := dst.Min.X; x < dst.Max.X; x++ {
			if x < 0 || y < 0 || x >= w || y >= h {
				continue
			}
			p := [4]byte(src[(y-dst.Min.Y)*stride+(x-dst.Min.X)*4:])
			if f == XBGR8888 || f == ABGR8888 {
				p[0], p[2] = p[2], p[0]
			}
			out := model[(y*w+x)*4:][:4]
			switch {
			case op == 2:
				copy(out, []byte{3, few, 1, 255})
			case op == 0 || f == XRGB8888 || f == XBGR8888 || p[3] == 255:
				copy(out, p[:])
			default:
				for j := range 3 {
					out[j] = p[j] + byte((int(out[j])*(255-int(p[3]))+127)/255)
				}
				out[3] = 255
			}
		}
	}
}

func TestSwapAndSnapshot(t *testing.T) {
	s := newScreen(t, 17, 16)
	s.Commit(time.Now(), func(c *Canvas) {
		c.Fill(c.Bounds(), color.RGBA{R: 10, G: 20, B: 30, A: 255})
		c.Copy(image.Rect(16, 0, 17, 1), []byte{1, 2, 3, 0}, 4, ABGR8888)
	})
	img := s.Snapshot()
	if got, want := img.RGBAAt(0, 0), (color.RGBA{10, 20, 30, 255}); got != want {
		t.Errorf("filled pixel = %v, want %v", got, want)
	}
	if got, want := img.RGBAAt(16, 0), (color.RGBA{1, 2, 3, 255}); got != want {
		t.Errorf("copied pixel = %v, want %v", got, want)
	}
	if !img.Opaque() {
		t.Error("a snapshot is not opaque")
	}
}

func TestNewestWins(t *testing.T) {
	s := newScreen(t, 64, 64)
	r := s.NewReader()
	defer r.Close()
	damage(r)
	for i := range 5 {
		s.Commit(time.Unix(int64(i), 0), func(c *Canvas) { c.Fill(c.Bounds(), color.RGBA{R: uint8(i + 1)}) })
	}
	s.Commit(time.Unix(9, 0), func(*Canvas) {})
	v := damage(r)
	if v.Frame != 5 || !v.CommitTime.Equal(time.Unix(4, 0)) || v.Pix[2] != 5 {
		t.Errorf("frame %d at %v, red %d; want the fifth", v.Frame, v.CommitTime, v.Pix[2])
	}
	if v := damage(r); len(v.Damage) != 0 {
		t.Errorf("damage after a read: %v", v.Damage)
	}
}

func TestWait(t *testing.T) {
	s := newScreen(t, 64, 64)
	r := s.NewReader()
	defer r.Close()
	if err := r.Wait(t.Context()); err != nil {
		t.Fatalf("a new reader has something to see: %v", err)
	}
	damage(r)
	select {
	case <-r.Changed():
		t.Fatal("a token is left after Read")
	default:
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.Commit(time.Now(), func(c *Canvas) { c.Fill(c.Bounds(), color.RGBA{R: 1}) }) })
	if err := r.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	damage(r)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait with a cancelled context = %v", err)
	}
}

func TestContent(t *testing.T) {
	s := newScreen(t, 64, 64)
	ch := s.ContentChanged()
	s.SetContent(false)
	select {
	case <-ch:
		t.Fatal("told of a change that was none")
	default:
	}
	s.SetContent(true)
	<-ch
	if !s.HasContent() {
		t.Error("HasContent is false")
	}
}

// TestFaultReleasesLock truncates the memory behind the source, as a hostile guest can, and reads it.
func TestFaultReleasesLock(t *testing.T) {
	const w, h = 128, 256
	src := truncatedMemory(t, w*h*4)
	s := newScreen(t, w, h)
	r := s.NewReader()
	defer r.Close()
	before := damage(r).Pix
	func() {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() {
			if recover() == nil {
				t.Error("reading truncated memory did not panic")
			}
		}()
		s.Commit(time.Now(), func(c *Canvas) { c.Copy(c.Bounds(), src, w*4, XRGB8888) })
	}()
	if got := s.Counters(); got != (Counters{}) {
		t.Errorf("a torn commit was counted: %+v", got)
	}
	v := damage(r)
	for y := range h {
		for x := range w {
			i := (y*w + x) * 4
			if !bytes.Equal(before[i:i+4], v.Pix[i:i+4]) && !covered(v.Damage, image.Pt(x, y)) {
				t.Fatalf("pixel (%d,%d) was drawn before the fault and is not in the damage", x, y)
			}
		}
	}
	if len(v.Damage) == 0 {
		t.Error("what was drawn before the fault is not damage")
	}
}

// truncatedMemory maps a file that is full of ones and ends in the middle of the mapping.
func truncatedMemory(t *testing.T, size int) []byte {
	fd, err := unix.MemfdCreate("pool", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "pool")
	defer f.Close()
	if _, err := f.Write(bytes.Repeat([]byte{1}, size)); err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(fd, 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(m) })
	if err := f.Truncate(int64(size) / 2); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestConcurrent lets the race detector see writers and readers at once.
func TestConcurrent(t *testing.T) {
	s := newScreen(t, 128, 128)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		r := s.NewReader()
		wg.Go(func() {
			defer r.Close()
			for {
				select {
				case <-stop:
					return
				case <-r.Changed():
					damage(r)
				}
			}
		})
	}
	for i := range 500 {
		s.Commit(time.Now(), func(c *Canvas) { c.Fill(image.Rect(i%100, 0, i%100+9, 9), color.RGBA{G: uint8(i)}) })
		s.SetContent(i%2 == 0)
		s.Snapshot()
	}
	close(stop)
	wg.Wait()
	if n := len(s.readers); n != 0 {
		t.Errorf("%d readers are left", n)
	}
}

func TestCommitAllocates(t *testing.T) {
	s := newScreen(t, 720, 1280)
	r := s.NewReader()
	defer r.Close()
	src := make([]byte, 720*1280*4)
	draw := func(c *Canvas) { c.Copy(c.Bounds(), src, 720*4, XRGB8888) }
	look := func(View) {}
	r.Read(look)
	if n := testing.AllocsPerRun(20, func() {
		src[len(src)/2]++
		s.Commit(time.Time{}, draw)
		r.Read(look)
	}); n != 0 {
		t.Errorf("a commit and a read allocate %v times", n)
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, bench := range []struct {
		name string
		f    Format
		next func(src []byte, i int)
	}{
		{"still", XRGB8888, func([]byte, int) {}},
		{"one_pixel", XRGB8888, func(src []byte, i int) { src[len(src)/2] = byte(i) }},
		{"all_pixels", XRGB8888, nil},
		{"all_pixels_swapped", XBGR8888, nil},
	} {
		b.Run(bench.name, func(b *testing.B) {
			s := newScreen(b, 720, 1280)
			one, two := make([]byte, 720*1280*4), bytes.Repeat([]byte{0x80}, 720*1280*4)
			b.SetBytes(int64(len(one)))
			for i := 0; b.Loop(); i++ {
				src := one
				if bench.next == nil {
					one, two = two, one
				} else {
					bench.next(src, i)
				}
				s.Commit(time.Time{}, func(c *Canvas) { c.Copy(c.Bounds(), src, 720*4, bench.f) })
			}
		})
	}
	b.Run("memmove", func(b *testing.B) {
		one, two := make([]byte, 720*1280*4), make([]byte, 720*1280*4)
		b.SetBytes(int64(len(one)))
		for b.Loop() {
			copy(one, two)
		}
	})
}
