package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type inputCmd struct {
	ID struct {
		ID    string   `arg:"" help:"The phone."`
		Tap   tapCmd   `cmd:"" help:"Touch a place and let go."`
		Swipe swipeCmd `cmd:"" help:"Draw a finger from one place to another."`
		Key   keyCmd   `cmd:"" help:"Press keys by name or by evdev code: POWER, HOME, BACK, 116."`
		Text  textCmd  `cmd:"" help:"Type text on a US keyboard."`
		Wheel wheelCmd `cmd:"" help:"Turn the wheel at a place."`
	} `arg:""`
}

// point is a place in display pixels.
type point struct{ x, y float64 }

type tapCmd struct {
	X    float64       `arg:"" help:"Column in display pixels from the left."`
	Y    float64       `arg:"" help:"Row in display pixels from the top."`
	Hold time.Duration `default:"50ms" help:"How long the finger stays down. Default: ${default}."`
}

func (c *tapCmd) Run(ctx context.Context, a *app, in *inputCmd) error {
	return a.input(ctx, in.ID.ID, func(ctx context.Context, s *inputStream) error {
		if err := s.touch(phonehostv1.TouchAction_TOUCH_ACTION_DOWN, point{c.X, c.Y}); err != nil {
			return err
		}
		if err := sleep(ctx, c.Hold); err != nil {
			return err
		}
		return s.touch(phonehostv1.TouchAction_TOUCH_ACTION_UP, point{c.X, c.Y})
	})
}

type swipeCmd struct {
	X1       float64       `arg:"" name:"x1" help:"Column where the finger goes down."`
	Y1       float64       `arg:"" name:"y1" help:"Row where the finger goes down."`
	X2       float64       `arg:"" name:"x2" help:"Column where it is lifted."`
	Y2       float64       `arg:"" name:"y2" help:"Row where it is lifted."`
	Duration time.Duration `default:"300ms" help:"How long it takes. Default: ${default}."`
}

// swipeStep is the time between two moves of a swipe: a common panel's report rate is 120 Hz.
const swipeStep = time.Second / 120

func (c *swipeCmd) Run(ctx context.Context, a *app, in *inputCmd) error {
	from, to := point{c.X1, c.Y1}, point{c.X2, c.Y2}
	return a.input(ctx, in.ID.ID, func(ctx context.Context, s *inputStream) error {
		if err := s.touch(phonehostv1.TouchAction_TOUCH_ACTION_DOWN, from); err != nil {
			return err
		}
		path := swipePath(from, to, c.Duration)
		for _, p := range path {
			if err := sleep(ctx, c.Duration/time.Duration(len(path))); err != nil {
				return err
			}
			if err := s.touch(phonehostv1.TouchAction_TOUCH_ACTION_MOVE, p); err != nil {
				return err
			}
		}
		return s.touch(phonehostv1.TouchAction_TOUCH_ACTION_UP, to)
	})
}

// swipePath is where the finger is after each step of a swipe; the last point is the end.
func swipePath(from, to point, duration time.Duration) []point {
	steps := max(1, int(math.Round(float64(duration)/float64(swipeStep))))
	path := make([]point, steps)
	for i := range path {
		part := float64(i+1) / float64(steps)
		path[i] = point{from.x + (to.x-from.x)*part, from.y + (to.y-from.y)*part}
	}
	return path
}

type keyCmd struct {
	Keys []string      `arg:"" name:"key" help:"Names (POWER, HOME, BACK, MENU, VOLUMEUP, ENTER, A...) or evdev codes 1..247, pressed one after another."`
	Hold time.Duration `default:"50ms" help:"How long each key stays down. Default: ${default}."`
}

func (c *keyCmd) Run(ctx context.Context, a *app, in *inputCmd) error {
	codes := make([]uint32, len(c.Keys))
	for i, name := range c.Keys {
		code, err := keyCode(name)
		if err != nil {
			return err
		}
		codes[i] = code
	}
	return a.input(ctx, in.ID.ID, func(ctx context.Context, s *inputStream) error {
		for _, code := range codes {
			if err := s.key(code, true); err != nil {
				return err
			}
			if err := sleep(ctx, c.Hold); err != nil {
				return err
			}
			if err := s.key(code, false); err != nil {
				return err
			}
		}
		return nil
	})
}

type textCmd struct {
	Text []string `arg:"" help:"What to type: printable ASCII; several words are joined by spaces."`
}

func (c *textCmd) Run(ctx context.Context, a *app, in *inputCmd) error {
	text := strings.Join(c.Text, " ")
	if text == "" {
		return usagef("there is no text to type")
	}
	return a.input(ctx, in.ID.ID, func(_ context.Context, s *inputStream) error {
		for len(text) > 0 { // the API takes 1024 characters at a time, all of them ASCII
			n := min(len(text), 1024)
			if err := s.send(&phonehostv1.InputRequest{Message: &phonehostv1.InputRequest_Text{
				Text: &phonehostv1.TextEvent{Text: strings.ToValidUTF8(text[:n], "�")},
			}}); err != nil {
				return err
			}
			text = text[n:]
		}
		return nil
	})
}

type wheelCmd struct {
	X  float64 `arg:"" help:"Column in display pixels."`
	Y  float64 `arg:"" help:"Row in display pixels."`
	DX float64 `arg:"" help:"Steps to the right, -100..100."`
	DY float64 `arg:"" help:"Steps down, -100..100."`
}

func (c *wheelCmd) Run(ctx context.Context, a *app, in *inputCmd) error {
	return a.input(ctx, in.ID.ID, func(_ context.Context, s *inputStream) error {
		return s.send(&phonehostv1.InputRequest{Message: &phonehostv1.InputRequest_Wheel{
			Wheel: &phonehostv1.WheelEvent{X: c.X, Y: c.Y, Dx: c.DX, Dy: c.DY},
		}})
	})
}

// wheelNumbers puts a "--" before the first negative number of a wheel command, which would be read as a flag.
func wheelNumbers(args []string) []string {
	wheel := slices.Index(args, "wheel")
	if wheel < 0 || !slices.Contains(args[:wheel], "input") {
		return args
	}
	for i, arg := range args[wheel+1:] {
		if arg == "--" {
			return args
		}
		if _, err := strconv.ParseFloat(arg, 64); err == nil && strings.HasPrefix(arg, "-") {
			return slices.Insert(slices.Clone(args), wheel+1+i, "--")
		}
	}
	return args
}

// inputStream sends events to one phone.
type inputStream struct {
	stream phonehostv1.StreamService_InputClient
}

// input opens the phone's input, lets fn send, and waits until all is delivered. An interrupted touch is lifted by the
// agent when the call ends.
func (a *app) input(ctx context.Context, id string, fn func(context.Context, *inputStream) error) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := phonehostv1.NewStreamServiceClient(conn.Control()).Input(ctx)
	if err != nil {
		return about(id, err)
	}
	s := &inputStream{stream: stream}
	err = s.send(&phonehostv1.InputRequest{Message: &phonehostv1.InputRequest_Start{Start: &phonehostv1.InputStart{PhoneId: id}}})
	if err == nil {
		err = fn(ctx, s)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return about(id, err)
	}
	answer, err := stream.CloseAndRecv() // why an event was refused comes out here
	if err != nil {
		return about(id, err)
	}
	if a.json() {
		return a.print(answer, nil)
	}
	return nil
}

func (s *inputStream) send(m *phonehostv1.InputRequest) error { return s.stream.Send(m) }

func (s *inputStream) touch(action phonehostv1.TouchAction, p point) error {
	return s.send(&phonehostv1.InputRequest{Message: &phonehostv1.InputRequest_Touch{
		Touch: &phonehostv1.TouchEvent{Action: action, X: p.x, Y: p.y},
	}})
}

func (s *inputStream) key(code uint32, down bool) error {
	return s.send(&phonehostv1.InputRequest{Message: &phonehostv1.InputRequest_Key{
		Key: &phonehostv1.KeyEvent{Code: code, Down: down},
	}})
}

// keyCode finds a key by name, with or without KEY_, or by its evdev code.
func keyCode(name string) (uint32, error) {
	if code, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(code), nil
	}
	code, ok := keyCodes[strings.TrimPrefix(strings.ToUpper(name), "KEY_")]
	if !ok {
		return 0, usagef("%q is no key: name one, such as POWER, HOME, BACK, ENTER or A, or give its code from Linux's input-event-codes.h", name)
	}
	return code, nil
}

// sleep waits, or fails when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("input: %w", ctx.Err())
	case <-timer.C:
		return nil
	}
}
