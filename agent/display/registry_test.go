package display_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/display/displaytest"
	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// rig is a registry over an empty directory, with its changes in a channel.
type rig struct {
	*display.Registry
	dir     string
	changes chan display.Change
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r, err := display.NewRegistry(display.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{Registry: r, dir: dir, changes: make(chan display.Change, 100)}
	r.Subscribe(func(c display.Change) { g.changes <- c })
	t.Cleanup(r.Shutdown)
	return g
}

// mkdir makes the control directory of a phone's display.
func (g *rig) mkdir(t *testing.T, id string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(g.dir, id, "display"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// serve starts a display.
func (g *rig) serve(t *testing.T, id string, s *displaytest.Server) *displaytest.Server {
	t.Helper()
	if err := s.Listen(g.dir, id); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// expect waits for the next change that is not an update.
func (g *rig) expect(t *testing.T, kind display.ChangeKind) display.Change {
	t.Helper()
	for c := range g.changes {
		if c.Kind == kind {
			return c
		}
		if c.Kind != display.Updated {
			t.Fatalf("change %d (%s), want %d", c.Kind, c.Reason, kind)
		}
	}
	return display.Change{}
}

func TestDisplayAppears(t *testing.T) {
	g := newRig(t)
	if err := g.WaitReady(t.Context(), "p1"); !errdefs.IsNotFound(err) {
		t.Errorf("without a directory: %v", err)
	}
	g.mkdir(t, "p1")
	ready := make(chan error)
	go func() { ready <- g.WaitReady(t.Context(), "p1") }()
	g.serve(t, "p1", &displaytest.Server{Build: "7.7"})
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	c := g.expect(t, display.Connected)
	want := display.State{Connected: true, Version: "7.7", Width: 720, Height: 1280, FPS: 30}
	if diff := cmp.Diff(want, g.State("p1")); diff != "" || c.State != want {
		t.Errorf("state (-want +got):\n%s, told %+v", diff, c.State)
	}
	if conn, err := g.Conn("p1"); err != nil || conn != c.Conn {
		t.Errorf("Conn: %v, %v", conn, err)
	}
	if err := g.WaitReady(t.Context(), "p1"); err != nil {
		t.Errorf("WaitReady of a display that is ready: %v", err)
	}
	if got := g.Connected(); got != 1 {
		t.Errorf("Connected = %d", got)
	}
}

func TestAdoption(t *testing.T) {
	g := newRig(t)
	s := g.serve(t, "p1", &displaytest.Server{})
	s.Commit()
	if err := g.WaitReady(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	first := g.expect(t, display.Connected)
	if !first.State.HasContent || first.State.FramesCommitted != 1 {
		t.Errorf("state %+v", first.State)
	}
	// An agent that starts again takes the display over.
	second, err := display.NewRegistry(display.Config{Dir: g.dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.WaitReady(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	g.expect(t, display.Lost)
	second.Shutdown()
	if err := second.Track("p1"); !errdefs.IsUnavailable(err) {
		t.Errorf("Track after Shutdown: %v", err)
	}
}

func TestLostAndBack(t *testing.T) {
	g := newRig(t)
	s := g.serve(t, "p1", &displaytest.Server{Build: "1"})
	if err := g.WaitReady(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	old := g.expect(t, display.Connected)
	s.Close()
	if c := g.expect(t, display.Lost); c.Conn != old.Conn || c.Reason == "" {
		t.Errorf("lost %+v", c)
	}
	if _, err := g.Conn("p1"); !errdefs.IsUnavailable(err) {
		t.Errorf("Conn of a lost display: %v", err)
	}
	if g.State("p1").Connected || g.Connected() != 0 {
		t.Error("a lost display is said to be connected")
	}
	g.serve(t, "p1", &displaytest.Server{Build: "2"})
	if c := g.expect(t, display.Connected); c.State.Version != "2" || c.Conn == old.Conn {
		t.Errorf("back %+v", c)
	}
}

// A display may be replaced while the old one still holds its connection.
func TestReplacedWhileAlive(t *testing.T) {
	g := newRig(t)
	g.serve(t, "p1", &displaytest.Server{Build: "1"})
	if err := g.WaitReady(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	g.expect(t, display.Connected)
	g.serve(t, "p1", &displaytest.Server{Build: "2"})
	g.expect(t, display.Lost)
	if c := g.expect(t, display.Connected); c.State.Version != "2" {
		t.Errorf("connected to version %s, want the newer", c.State.Version)
	}
}

func TestDroppedConnectionIsMadeAgain(t *testing.T) {
	g := newRig(t)
	s := g.serve(t, "p1", &displaytest.Server{})
	if err := g.WaitReady(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	g.expect(t, display.Connected)
	s.Drop()
	g.expect(t, display.Lost)
	g.expect(t, display.Connected)
}

func TestUpdates(t *testing.T) {
	g := newRig(t)
	s := g.serve(t, "p1", &displaytest.Server{})
	if err := g.WaitReady(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	s.Send(&displayv1.ServerMessage{Message: &displayv1.ServerMessage_State{State: &displayv1.State{HasContent: true, FramesEncoded: 5}}})
	g.expect(t, display.Connected)
	c := <-g.changes
	if c.Kind != display.Updated || !c.State.HasContent || c.State.FramesEncoded != 5 || g.State("p1") != c.State || !g.HasContent("p1") || g.HasContent("p2") {
		t.Errorf("change %+v, state %+v", c, g.State("p1"))
	}
	s.Commit()
	got, err := g.Refresh(t.Context(), "p1")
	if err != nil || got.FramesCommitted != 1 || g.State("p1") != got {
		t.Errorf("Refresh: %+v, %v; state %+v", got, err, g.State("p1"))
	}
	if _, err := g.Refresh(t.Context(), "p2"); !errdefs.IsUnavailable(err) {
		t.Errorf("Refresh of an unknown display: %v", err)
	}
}

func TestClose(t *testing.T) {
	g := newRig(t)
	s := g.serve(t, "p1", &displaytest.Server{})
	if err := g.WaitReady(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	g.expect(t, display.Connected)
	g.Close("p1")
	g.expect(t, display.Closed)
	g.Close("p1")
	if g.State("p1") != (display.State{}) {
		t.Errorf("state of a closed display %+v", g.State("p1"))
	}
	s.Close()
	if err := os.RemoveAll(filepath.Join(g.dir, "p1")); err != nil {
		t.Fatal(err)
	}
	// The same phone again, in a new directory.
	g.serve(t, "p1", &displaytest.Server{Build: "2"})
	if err := g.WaitReady(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	if g.State("p1").Version != "2" {
		t.Errorf("state %+v", g.State("p1"))
	}
}

// A directory that was removed and made again while it was tracked is watched anew by the next WaitReady.
func TestDirectoryMadeAgain(t *testing.T) {
	g := newRig(t)
	g.mkdir(t, "p1")
	if err := g.Track("p1"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(g.dir, "p1")); err != nil {
		t.Fatal(err)
	}
	g.mkdir(t, "p1")
	ready := make(chan error)
	go func() { ready <- g.WaitReady(t.Context(), "p1") }()
	g.serve(t, "p1", &displaytest.Server{})
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
}

func TestWaitReadyErrors(t *testing.T) {
	g := newRig(t)
	g.mkdir(t, "p1")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if err := g.WaitReady(ctx, "p1"); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("no display: %v", err)
	}
	for _, id := range []string{"", ".", "..", "a/b", "/"} {
		if err := g.Track(id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("id %q: %v", id, err)
		}
	}
	if _, err := display.NewRegistry(display.Config{Dir: "relative"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("relative directory: %v", err)
	}
	// A display that cannot be driven: the error says what was met.
	waiting, stop := context.WithCancel(t.Context())
	defer stop()
	tries := 0
	s := &displaytest.Server{Width: 1 << 20}
	s.OnMessage = func(*displayv1.ClientMessage) bool {
		if tries++; tries == 2 { // the first has been given up
			stop()
		}
		return false
	}
	g.serve(t, "p2", s)
	if err := g.WaitReady(waiting, "p2"); err == nil || !strings.Contains(err.Error(), "impossible screen") {
		t.Errorf("a display that cannot be driven: %v", err)
	}
}

func TestManyPhones(t *testing.T) {
	g := newRig(t)
	var all sync.WaitGroup
	for i := range 20 {
		id := fmt.Sprintf("p%d", i)
		g.mkdir(t, id)
		all.Go(func() {
			if err := g.WaitReady(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
		g.serve(t, id, &displaytest.Server{})
	}
	all.Wait()
	if got := g.Connected(); got != 20 {
		t.Errorf("%d displays connected, want 20", got)
	}
}
