package e2e

import (
	"bytes"
	"context"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/phonehost/phonehost/agent/display"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// screen is a phone-display process without a phone: tests put real Wayland clients in the guest's place.
type screen struct {
	t             *testing.T
	wayland       string // the guest's XDG_RUNTIME_DIR
	conn          *display.Conn
	level         *display.Level
	width, height int

	mu      sync.Mutex
	stream  bytes.Buffer
	packets chan struct{} // a token for packets that came since it was taken
}

// newScreen starts a display of 720x1280 and watches it at 4 Mbit/s.
func newScreen(t *testing.T, globals string) *screen {
	t.Helper()
	program, err := buildDisplay()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "phe-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &screen{t: t, wayland: filepath.Join(dir, "wayland"), width: 720, height: 1280, packets: make(chan struct{}, 1)}
	control := filepath.Join(dir, "phones", "p1", "display")
	for _, d := range []string{s.wayland, control} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"--wayland-dir", s.wayland, "--control-dir", control, "--width", itoa(s.width), "--height", itoa(s.height), "--fps", "30"}
	if globals != "" {
		args = append(args, "--globals", globals)
	}
	s.start(exec.Command(program, args...))

	registry, err := display.NewRegistry(display.Config{Dir: filepath.Join(dir, "phones")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Shutdown)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := registry.WaitReady(ctx, "p1"); err != nil {
		t.Fatal(err)
	}
	if s.conn, err = registry.Conn("p1"); err != nil {
		t.Fatal(err)
	}
	s.level, err = s.conn.OpenLevel(ctx, display.LevelConfig{BitrateKbps: 4000, MaxFPS: 30, OnPacket: s.packet})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.level.Credit(3); err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs a program until the test ends.
func (s *screen) start(cmd *exec.Cmd) *os.Process {
	s.t.Helper()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		// The group that Setpgid made: browsers leave children behind.
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		if s.t.Failed() {
			s.t.Logf("%s:\n%s", cmd.Path, log.String())
		}
	})
	return cmd.Process
}

// guest starts a Wayland client on the screen.
func (s *screen) guest(name string, args ...string) *os.Process {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+s.wayland, "WAYLAND_DISPLAY=wayland-0", "HOME="+s.t.TempDir(), "XDG_SESSION_TYPE=wayland")
	return s.start(cmd)
}

func (s *screen) packet(p *displayv1.VideoPacket) {
	s.mu.Lock()
	s.stream.Write(p.GetData())
	s.mu.Unlock()
	_ = s.level.Credit(1) // a display that is gone is noticed elsewhere
	select {
	case s.packets <- struct{}{}:
	default:
	}
}

// until looks at the screen after every new packet until ok is content with it.
func (s *screen) until(what string, ok func(image.Image) bool) image.Image {
	s.t.Helper()
	limit := time.NewTimer(90 * time.Second)
	defer limit.Stop()
	var last image.Image
	for {
		select {
		case <-s.packets:
		case <-limit.C:
			s.keep(last, "last.png")
			s.t.Fatalf("the screen never showed %s", what)
		}
		if img := s.shot(); img != nil {
			if ok(img) {
				return img
			}
			last = img
		}
	}
}

// shot returns a screenshot, nil while the guest has drawn nothing.
func (s *screen) shot() image.Image {
	s.t.Helper()
	data, err := s.conn.Screenshot(s.t.Context())
	if err != nil {
		return nil
	}
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		s.t.Fatal(err)
	}
	return img
}

// settle waits until the display has nothing more to say: no packet for a second.
func (s *screen) settle() {
	quiet := time.NewTimer(time.Second)
	defer quiet.Stop()
	for {
		select {
		case <-s.packets:
			quiet.Reset(time.Second)
		case <-quiet.C:
			return
		}
	}
}

// file writes the stream so far.
func (s *screen) file(name string) string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.WriteFile(path, s.stream.Bytes(), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// keep saves a picture where PHONEHOST_TEST_PICTURES says, for people to look at.
func (s *screen) keep(img image.Image, name string) {
	dir := os.Getenv("PHONEHOST_TEST_PICTURES")
	if dir == "" || img == nil {
		return
	}
	writePNG(s.t, filepath.Join(dir, filepath.Base(s.t.Name())+"-"+name), img)
}

func writePNG(t *testing.T, path string, img image.Image) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := png.Encode(f, img); err != nil {
		t.Fatal(err)
	}
}
