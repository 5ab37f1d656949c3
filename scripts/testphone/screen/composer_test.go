package screen

import (
	"bytes"
	"context"
	"errors"
	"image"
	"math"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/encoder/wayland"
	"github.com/phonehost/phonehost/scripts/testphone/barcode"
	"github.com/phonehost/phonehost/scripts/testphone/property"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// phone is a property service, a display and the composer between them.
type phone struct {
	t      *testing.T
	store  *property.Store
	props  *property.Client
	dir    string
	pixels *screen.Screen
	reader *screen.Reader
	server *wayland.Server
	out    *log
	stop   context.CancelFunc // of the composer
	result chan error
}

// log is what the composer prints. Each write wakes the waiter.
type log struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote chan struct{}
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.wrote <- struct{}{}:
	default:
	}
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *log) wait(t *testing.T, text string) {
	t.Helper()
	for !strings.Contains(l.String(), text) {
		select {
		case <-l.wrote:
		case <-t.Context().Done():
			t.Fatalf("%q was not printed, but: %s", text, l)
		}
	}
}

func newPhone(t *testing.T, props map[string]string) *phone {
	t.Helper()
	p := &phone{t: t, store: property.NewStore(), dir: t.TempDir(), out: &log{wrote: make(chan struct{}, 1)}}
	for name, value := range props {
		if err := p.store.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "property_service")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	service, err := property.NewServer(property.Config{Store: p.store})
	if err != nil {
		t.Fatal(err)
	}
	p.background(func(ctx context.Context) error { return service.Serve(ctx, l) })
	p.props = property.NewClient(socket)
	return p
}

// background runs f until the test ends.
func (p *phone) background(f func(context.Context) error) context.CancelFunc {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	p.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			p.t.Errorf("background: %v", err)
		}
	})
	return cancel
}

// display starts the real display server.
func (p *phone) display(width, height, fps int) context.CancelFunc {
	p.t.Helper()
	var err error
	if p.pixels, err = screen.New(width, height); err != nil {
		p.t.Fatal(err)
	}
	p.reader = p.pixels.NewReader()
	p.t.Cleanup(p.reader.Close)
	if p.server, err = wayland.New(wayland.Config{Screen: p.pixels, Dir: p.dir, FPS: fps}); err != nil {
		p.t.Fatal(err)
	}
	return p.background(p.server.Serve)
}

// composer starts the composer.
func (p *phone) composer() {
	var ctx context.Context
	ctx, p.stop = context.WithCancel(context.Background())
	p.result = make(chan error, 1)
	go func() {
		p.result <- Run(ctx, Config{Stdout: p.out, Properties: p.props, Socket: filepath.Join(p.dir, "wayland-0")})
	}()
	p.t.Cleanup(func() { p.stop(); <-p.result })
}

// booted waits for sys.boot_completed.
func (p *phone) booted() {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	defer cancel()
	if err := p.props.Watch(ctx, "sys.boot_completed", func(property.Property) { cancel() }); !errors.Is(err, context.Canceled) {
		p.t.Fatal(err)
	}
}

// see waits until a picture on the display satisfies f, and fails when 200 have not.
func (p *phone) see(what string, f func(img *image.RGBA) bool) {
	p.t.Helper()
	for range 200 {
		p.reader.Read(func(screen.View) {})
		if f(p.pixels.Snapshot()) {
			return
		}
		if err := p.reader.Wait(p.t.Context()); err != nil {
			p.t.Fatal(err)
		}
	}
	p.t.Fatalf("%s is not seen in 200 frames", what)
}

func TestFramesReachTheDisplay(t *testing.T) {
	p := newPhone(t, map[string]string{"ro.boot.phonehost_width": "720", "ro.boot.phonehost_height": "1280", "ro.boot.phonehost_dpi": "320"})
	p.display(720, 1280, 60)
	p.composer()
	p.booted()
	if got := p.store.Get("dev.bootcomplete"); got != "1" {
		t.Errorf("dev.bootcomplete is %q", got)
	}
	var first uint32
	p.see("a frame number", func(img *image.RGBA) bool {
		n, err := barcode.Read(img)
		first = n
		return err == nil
	})
	p.see("ten frames more", func(img *image.RGBA) bool {
		n, err := barcode.Read(img)
		return err == nil && n >= first+10
	})
	p.out.wait(t, "screen: 720x1280 at 60 Hz, first frame shown")
	p.stop()
	if err := <-p.result; err != nil {
		t.Errorf("Run = %v", err)
	}
	p.result <- nil
}

func TestSizeWithoutProperties(t *testing.T) {
	p := newPhone(t, nil)
	p.display(480, 800, 30)
	p.composer()
	p.booted()
	p.out.wait(t, "screen: 480x800 at 30 Hz")
}

func TestInput(t *testing.T) {
	p := newPhone(t, nil)
	p.display(720, 1280, 60)
	p.composer()
	p.booted()
	marks := func(want ...barcode.Mark) func(*image.RGBA) bool {
		return func(img *image.RGBA) bool {
			got := barcode.FindMarks(img)
			if len(got) != len(want) {
				return false
			}
			for i := range got {
				if got[i].ID != want[i].ID || math.Hypot(got[i].X-want[i].X, got[i].Y-want[i].Y) > 4 {
					return false
				}
			}
			return true
		}
	}
	for _, step := range []struct {
		what string
		do   func() error
		want func(*image.RGBA) bool
	}{
		{"a mark", func() error { return p.server.Touch(0, wayland.TouchDown, 200, 500) }, marks(barcode.Mark{ID: 0, X: 200, Y: 500})},
		{"a second one", func() error { return p.server.Touch(7, wayland.TouchDown, 500, 800) },
			marks(barcode.Mark{ID: 0, X: 200, Y: 500}, barcode.Mark{ID: 7, X: 500, Y: 800})},
		{"a move", func() error { return p.server.Touch(0, wayland.TouchMove, 300, 600) },
			marks(barcode.Mark{ID: 0, X: 300, Y: 600}, barcode.Mark{ID: 7, X: 500, Y: 800})},
		{"no marks", func() error {
			return errors.Join(p.server.Touch(0, wayland.TouchUp, 300, 600), p.server.Touch(7, wayland.TouchUp, 500, 800))
		}, marks()},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		p.see(step.what, step.want)
	}
}

func TestScenes(t *testing.T) {
	p := newPhone(t, map[string]string{SceneProperty: "bars"})
	p.display(720, 1280, 60)
	p.composer()
	p.booted()
	bars := func(img *image.RGBA) bool {
		for _, bar := range barcode.Bars(720, 1280) {
			if middle := bar.Area.Min.Add(bar.Area.Size().Div(2)); img.RGBAAt(middle.X, middle.Y) != bar.Color {
				return false
			}
		}
		return true
	}
	p.see("bars", bars)
	if err := p.store.Set(SceneProperty, "none"); err != nil {
		t.Fatal(err)
	}
	p.out.wait(t, "none is none of")
	if err := p.store.Set(SceneProperty, "typing"); err != nil {
		t.Fatal(err)
	}
	p.see("something else", func(img *image.RGBA) bool { return !bars(img) })
}

// TestWaitsForTheDisplay starts the composer before there is a socket.
func TestWaitsForTheDisplay(t *testing.T) {
	p := newPhone(t, nil)
	p.composer()
	p.out.wait(t, "waiting for the display's socket")
	p.display(480, 800, 30)
	p.booted()
}

func TestEndsWithTheDisplay(t *testing.T) {
	p := newPhone(t, nil)
	stop := p.display(480, 800, 30)
	p.composer()
	p.booted()
	stop()
	err := <-p.result
	if err == nil {
		t.Error("Run ended without an error")
	}
	p.result <- err
}

func TestWaitingCanBeEnded(t *testing.T) {
	p := newPhone(t, nil)
	p.composer()
	p.out.wait(t, "waiting for the display's socket")
	p.stop()
	if err := <-p.result; err != nil {
		t.Errorf("Run = %v", err)
	}
	p.result <- nil
}

func TestBadSettings(t *testing.T) {
	p := newPhone(t, map[string]string{"ro.boot.phonehost_width": "wide"})
	err := Run(t.Context(), Config{Stdout: p.out, Properties: p.props, Socket: filepath.Join(p.dir, "wayland-0")})
	if err == nil || !strings.Contains(err.Error(), "phonehost_width") {
		t.Errorf("Run = %v", err)
	}
	err = Run(t.Context(), Config{Stdout: p.out, Properties: property.NewClient(filepath.Join(p.dir, "none"))})
	if !errdefs.IsUnavailable(err) {
		t.Errorf("without a property service: %v", err)
	}
}

func TestSocketPath(t *testing.T) {
	for _, test := range []struct{ dir, name, want string }{
		{"", "", "/run/wayland/wayland-0"},
		{"/run/xdg", "wayland-1", "/run/xdg/wayland-1"},
		{"/run/xdg", "/tmp/w", "/tmp/w"},
	} {
		t.Setenv("XDG_RUNTIME_DIR", test.dir)
		t.Setenv("WAYLAND_DISPLAY", test.name)
		if got := socketPath(); got != test.want {
			t.Errorf("%q %q: %q, want %q", test.dir, test.name, got, test.want)
		}
	}
}
