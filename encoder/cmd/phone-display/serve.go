package main

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync/atomic"

	"github.com/phonehost/phonehost/encoder/avcodec"
	"github.com/phonehost/phonehost/encoder/control"
	"github.com/phonehost/phonehost/encoder/internal/codepages"
	"github.com/phonehost/phonehost/encoder/level"
	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/encoder/wayland"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// tune keeps the process small: there is one per phone. The heap is the canvas and little else, and hardly anything is
// allocated per frame, so collecting at a quarter of growth costs next to nothing; one processor could do all of Go's work, and
// a second keeps input quick while a screenshot is compressed. x264 asks for huge pages, of which its buffers fill a half.
func tune() {
	debug.SetGCPercent(25)
	runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), 2))
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0) // an optimisation: kernels without it lose nothing else
}

// serve runs the display until the context ends.
func serve(ctx context.Context, o options, log *slog.Logger) error {
	tune()
	canvas, err := screen.New(o.width, o.height)
	if err != nil {
		return err
	}
	var watched atomic.Bool
	guest, err := wayland.New(wayland.Config{
		Screen: canvas, Dir: o.waylandDir, FPS: o.fps, DPI: o.dpi, Globals: o.globals,
		Logger: log.With("part", "wayland"), Watched: watched.Load,
	})
	if err != nil {
		return fmt.Errorf("start wayland server: %w", err)
	}
	agent, err := control.New(control.Config{
		Dir: o.controlDir, Screen: canvas, FPS: o.fps, Build: version, Input: input{guest},
		Open: openEncoder, Clients: guest.Clients, Logger: log.With("part", "control"),
		Watched: func(now bool) {
			watched.Store(now)
			guest.WatchedChanged()
			if !now {
				codepages.Forget()
			}
		},
	})
	if err != nil {
		guest.Close()
		return err
	}
	log.Info("display starts", "version", version, "width", o.width, "height", o.height, "fps", o.fps)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return guest.Serve(ctx) })
	group.Go(func() error { return agent.Serve(ctx) })
	err = group.Wait()
	log.Info("display ends")
	return err
}

// openEncoder opens an encoder of libavcodec.
func openEncoder(name string, width, height, fps, kbps int) (level.Encoder, error) {
	e, err := avcodec.Open(avcodec.Config{Codec: name, Width: width, Height: height, FPS: fps, Kbps: kbps})
	if err != nil {
		return nil, err // not e: a nil *Encoder is not a nil level.Encoder
	}
	return e, nil
}

// input hands the agent's input to the guest.
type input struct{ *wayland.Server }

// Touch translates the action.
func (i input) Touch(id int, action control.TouchAction, x, y float64) error {
	to := map[control.TouchAction]wayland.TouchAction{
		control.TouchDown: wayland.TouchDown, control.TouchMove: wayland.TouchMove,
		control.TouchUp: wayland.TouchUp, control.TouchCancel: wayland.TouchCancel,
	}
	return i.Server.Touch(id, to[action], x, y)
}
