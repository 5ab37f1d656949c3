package screen

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/phonehost/phonehost/scripts/testphone/paint"
)

// defaultMilliHertz is the rate when neither the display nor a property tells one.
const defaultMilliHertz = 60_000

// settings are what properties say about the screen; zero means that they say nothing.
type settings struct {
	name               string
	width, height, dpi int
	fps                int
}

// composer is one connection to a display, from its begin to its end.
type composer struct {
	*connection
	settings settings

	registry, surface, xdgSurface, toplevel uint32
	pointer, keyboard, touch                uint32
	globals                                 map[string]*global
	done                                    map[uint32]bool // syncs that were answered

	width, height         int // of the window, fixed after begin
	modeWidth, modeHeight int
	milliHertz, scale     int

	picture *paint.Painter
	buffers [buffers]*buffer
	turn    int
	keys    keyState
	fingers map[int32]struct{}
	wheel   float64 // part of a step
	counted bool    // the step that wl_pointer.axis comes for
}

// newComposer connects over a socket, which it owns from then on.
func newComposer(socket *net.UnixConn, set settings) (*composer, error) {
	c, err := connect(socket)
	if err != nil {
		return nil, err
	}
	return &composer{
		connection: c,
		settings:   set,
		globals:    globals(),
		done:       map[uint32]bool{},
		width:      set.width,
		height:     set.height,
		milliHertz: defaultMilliHertz,
		scale:      1,
		turn:       buffers - 1,
		keys:       newKeyState(),
		fingers:    map[int32]struct{}{},
	}, nil
}

// close ends the connection and frees the buffers.
func (s *composer) close() {
	s.connection.close()
	for _, b := range s.buffers {
		if b != nil {
			_ = b.unmap()
		}
	}
}

// changes are what properties change on the screen while it is shown.
type changes struct {
	scenes chan string
	apps   chan []string
}

// run shows frames until ctx ends or the display goes away. shown is called once, when the display has taken the first frame.
func (s *composer) run(ctx context.Context, c changes, shown func() error) error {
	if s.settings.fps > 0 {
		s.milliHertz = s.settings.fps * 1000
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	picture, err := paint.New(paint.Config{
		Width: s.width, Height: s.height, FPS: (s.milliHertz + 500) / 1000, DPI: s.settings.dpi, Name: s.settings.name,
	})
	if err != nil {
		return err
	}
	s.picture = picture
	if err := s.frame(time.Now()); err != nil {
		return err
	}
	if err := s.roundtrip(ctx); err != nil {
		return fmt.Errorf("show the first frame: %w", err)
	}
	if err := shown(); err != nil {
		return err
	}
	return s.loop(ctx, c)
}

// loop draws a frame at every tick of its own clock.
func (s *composer) loop(ctx context.Context, c changes) error {
	period := time.Duration(1e12 / float64(s.milliHertz))
	next := time.Now().Add(period)
	tick := time.NewTimer(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-s.events:
			if !ok {
				return s.err
			}
			if err := s.handle(ctx, e); err != nil {
				return err
			}
			if err := s.flush(); err != nil {
				return err
			}
		case labels := <-c.apps:
			s.picture.SetApps(labels)
		case name := <-c.scenes:
			if err := s.picture.SetScene(name); err != nil {
				return err
			}
		case <-tick.C:
			now := time.Now()
			if err := s.frame(now); err != nil {
				return err
			}
			// Ticks that are over already are left out; the phase stays.
			next = next.Add(max(1, (now.Sub(next)+period-1)/period) * period)
			tick.Reset(time.Until(next))
		}
	}
}

// frame draws and commits a frame, if there is anything new.
func (s *composer) frame(now time.Time) error {
	damage := s.picture.Frame(now.UTC())
	if len(damage) == 0 {
		return nil
	}
	return s.present(damage)
}
