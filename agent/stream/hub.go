package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/fault"
)

// Reasons of this package's errors; docs/api.md describes them.
const (
	// NoScreen: the guest has drawn nothing yet, or has no window that takes input.
	NoScreen = "NO_SCREEN"
	// NoSuchViewer: no viewer of that name is attached to the phone by the same identity.
	NoSuchViewer = "NO_SUCH_VIEWER"
	// DisplayLost: the phone's display is not connected; it is being brought back.
	DisplayLost = "DISPLAY_LOST"
	// EncoderFailed: the display cannot encode.
	EncoderFailed = "ENCODER_FAILED"
	// TooManyViewers: the phone has as many viewers as it may have.
	TooManyViewers = "TOO_MANY_VIEWERS"
	// ViewerLeft: the viewer that an input was bound to has left.
	ViewerLeft = "VIEWER_LEFT"
	// NoFreeContact: all touch points of the display are down.
	NoFreeContact = "NO_FREE_CONTACT"
)

const (
	// DefaultAttachTimeout is how long Attach waits for a display that is on its way.
	DefaultAttachTimeout = 10 * time.Second
	// DefaultMaxViewers bounds the viewers of one phone.
	DefaultMaxViewers = 32
)

// Displays gives the connections to displays; *display.Registry does.
type Displays interface {
	// Conn returns the connection to the phone's display, or errdefs.ErrUnavailable.
	Conn(id string) (*display.Conn, error)
	// Subscribe calls fn with every change from now on, in order for each phone.
	Subscribe(fn func(display.Change)) (cancel func())
}

// Phones tells which phones have displays.
type Phones interface {
	// CheckOn returns nil when the phone's display runs or should, errdefs.ErrNotFound for an unknown phone, and
	// errdefs.ErrFailedPrecondition with reason NOT_RUNNING when the phone is off.
	CheckOn(id string) error
}

// ViewerEvent tells that a viewer came or went.
type ViewerEvent struct {
	// Attached or detached.
	Attached bool
	// Phone is its id, Viewer the viewer's name, Identity who watches.
	Phone, Viewer, Identity string
	// Frames that the viewer was sent; when it goes.
	Frames uint64
	// Cause of its going; nil when it just left.
	Cause error
}

// Config composes a hub.
type Config struct {
	// Displays and Phones are required.
	Displays Displays
	Phones   Phones
	// Logger takes what happens to levels; nil means none.
	Logger *slog.Logger
	// OnViewer is called with every viewer that comes or goes, by the goroutine that attached or detached it, with no lock
	// held. May be nil.
	OnViewer func(ViewerEvent)
	// AttachTimeout is how long Attach waits for a display; 0 means DefaultAttachTimeout.
	AttachTimeout time.Duration
	// MaxViewers bounds the viewers of one phone; 0 means DefaultMaxViewers.
	MaxViewers int
}

// Totals counts since the hub was made.
type Totals struct {
	// Viewers are attached now, Levels open now.
	Viewers, Levels int64
	// Packets and Bytes (of video) were handed to viewers' connections.
	Packets, Bytes uint64
	// Skipped packets were encoded for other viewers and left out for one that lagged.
	Skipped uint64
	// KeyFrames were asked of displays for a viewer that came, lagged, or asked.
	KeyFrames uint64
	// InputEvents were delivered.
	InputEvents uint64
}

// Hub has all viewers and inputs of all phones. Its methods may be called by any goroutine.
type Hub struct {
	config  Config
	log     *slog.Logger
	cancel  func() // of the subscription
	keepers sync.WaitGroup

	viewers, levels                                atomic.Int64
	packets, bytes, skipped, keyFrames, inputCount atomic.Uint64

	mu      sync.Mutex // guards what follows
	stopped bool
	screens map[string]*screen
}

// NewHub returns a hub without viewers. It returns errdefs.ErrInvalidArgument when Displays or Phones are missing.
func NewHub(config Config) (*Hub, error) {
	if config.Displays == nil || config.Phones == nil {
		return nil, fmt.Errorf("stream hub: Displays and Phones are required: %w", errdefs.ErrInvalidArgument)
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.OnViewer == nil {
		config.OnViewer = func(ViewerEvent) {}
	}
	if config.AttachTimeout <= 0 {
		config.AttachTimeout = DefaultAttachTimeout
	}
	if config.MaxViewers <= 0 {
		config.MaxViewers = DefaultMaxViewers
	}
	h := &Hub{config: config, log: config.Logger, screens: make(map[string]*screen)}
	h.cancel = config.Displays.Subscribe(h.change)
	return h, nil
}

// Shutdown ends all viewers and inputs with reason SHUTTING_DOWN and waits for the hub's goroutines. Attach and OpenInput
// are refused from then on.
func (h *Hub) Shutdown() {
	h.cancel()
	h.mu.Lock()
	h.stopped = true
	screens := make([]*screen, 0, len(h.screens))
	for _, s := range h.screens {
		screens = append(screens, s)
	}
	h.mu.Unlock()
	for _, s := range screens {
		s.end(stopping())
		s.cancel()
	}
	h.keepers.Wait()
}

// Viewers returns the number of viewers of a phone.
func (h *Hub) Viewers(phone string) int {
	h.mu.Lock()
	s := h.screens[phone]
	h.mu.Unlock()
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.viewers)
}

// Totals returns what was counted.
func (h *Hub) Totals() Totals {
	return Totals{
		Viewers: h.viewers.Load(), Levels: h.levels.Load(), Packets: h.packets.Load(), Bytes: h.bytes.Load(),
		Skipped: h.skipped.Load(), KeyFrames: h.keyFrames.Load(), InputEvents: h.inputCount.Load(),
	}
}

// Screenshot returns the phone's last committed frame as a PNG file. Errors: ErrNotFound; ErrFailedPrecondition with
// reason NOT_RUNNING or NO_SCREEN; ErrUnavailable with reason DISPLAY_LOST.
func (h *Hub) Screenshot(ctx context.Context, phone string) ([]byte, error) {
	if err := h.config.Phones.CheckOn(phone); err != nil {
		return nil, err
	}
	conn, err := h.config.Displays.Conn(phone)
	if err != nil {
		return nil, lost(phone, "")
	}
	picture, err := conn.Screenshot(ctx)
	if err != nil {
		return nil, h.displayError(phone, conn, err)
	}
	return picture, nil
}

// displayError gives an error of a display's answer its reason.
func (h *Hub) displayError(phone string, conn *display.Conn, err error) error {
	switch {
	case errors.Is(err, errdefs.ErrFailedPrecondition):
		return fault.New(errdefs.ErrFailedPrecondition, NoScreen, "phone %s: %v", phone, err)
	case conn.Err() != nil:
		return lost(phone, conn.Err().Error())
	default:
		return fmt.Errorf("phone %s: %w", phone, err)
	}
}

// change takes a change of a phone's display.
func (h *Hub) change(c display.Change) {
	h.mu.Lock()
	s := h.screens[c.Phone]
	h.mu.Unlock()
	if s == nil {
		return
	}
	switch c.Kind {
	case display.Connected:
		s.connected(c.Conn)
	case display.Lost:
		s.lost(c.Conn, c.Reason)
	case display.Closed:
		s.end(fault.New(errdefs.ErrFailedPrecondition, fault.NotRunning, "phone %s is off: its display has been taken down", c.Phone))
	case display.Stopped:
		s.end(stopping())
	}
}

// acquire returns the phone's screen, made if need be; release must be called once for each call.
func (h *Hub) acquire(phone string) (*screen, error) {
	if err := h.config.Phones.CheckOn(phone); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped {
		return nil, stopping()
	}
	s := h.screens[phone]
	if s == nil || s.isEnded() {
		s = newScreen(h, phone)
		h.screens[phone] = s
		h.keepers.Add(1)
		go s.keep()
	}
	s.users++
	return s, nil
}

// release gives a screen back; the last one ends it.
func (h *Hub) release(s *screen) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	if h.screens[s.phone] == s {
		delete(h.screens, s.phone)
	}
	s.cancel()
}

func stopping() error {
	return fault.New(errdefs.ErrUnavailable, fault.ShuttingDown, "the agent is stopping")
}

func lost(phone, why string) error {
	if why != "" {
		why = ": " + why
	}
	return fault.New(errdefs.ErrUnavailable, DisplayLost, "display of phone %s is not connected%s", phone, why)
}
