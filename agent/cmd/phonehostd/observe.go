package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/agent/stream"
	"github.com/phonehost/phonehost/agent/tunnel"
)

// onContainerd keeps the warning about a containerd that is lost.
func (a *agent) onContainerd(lost bool) {
	a.containerdUp.Store(!lost)
	if !lost {
		a.health.Clear(warnContainerd)
		return
	}
	a.health.Set(warnContainerd, health.Error, fmt.Sprintf("containerd does not answer at %s: phones go on and cannot be changed; start it with: systemctl start containerd",
		a.cfg.Containerd.Address))
}

// onViewer writes viewers into the journal and shows the change to those who watch phones.
func (a *agent) onViewer(v stream.ViewerEvent) {
	e := event.Event{
		Kind: event.ViewerAttached, PhoneID: v.Phone, Message: fmt.Sprintf("%s watches %s", v.Identity, v.Phone),
		Attributes: map[string]string{"viewer_id": v.Viewer, "identity": v.Identity},
	}
	if !v.Attached {
		e.Kind, e.Message = event.ViewerDetached, fmt.Sprintf("%s has left %s", v.Identity, v.Phone)
		e.Attributes = map[string]string{"viewer_id": v.Viewer, "frames": strconv.FormatUint(v.Frames, 10)}
	}
	a.journal.Emit(e)
	a.phones.Refresh(v.Phone)
}

// displayWatcher returns a subscriber that shows to those who watch phones when a display comes, goes, or draws for the first time.
// Its counters alone are no change.
func (a *agent) displayWatcher() func(display.Change) {
	var mu sync.Mutex
	type shown struct{ connected, hasContent bool }
	last := map[string]shown{}
	return func(c display.Change) {
		now := shown{c.State.Connected, c.State.HasContent}
		mu.Lock()
		changed := last[c.Phone] != now
		if now == (shown{}) {
			delete(last, c.Phone)
		} else {
			last[c.Phone] = now
		}
		mu.Unlock()
		if changed {
			a.phones.DisplayChanged(c.Phone)
		}
	}
}

// doorWatcher writes what happens at the network doors into the journal, the metrics and the health registry.
type doorWatcher struct {
	a *agent
	// refusals bounds how many refused peers reach the journal, or anyone who can connect could push everything else out of it.
	refusals *rate.Limiter

	mu sync.Mutex
	// suppressed counts the refusals that did not.
	suppressed uint64
	// planes holds the control planes that cannot be reached, with the last error.
	planes map[string]error
}

func newDoorWatcher(a *agent) *doorWatcher {
	return &doorWatcher{a: a, refusals: rate.NewLimiter(rate.Every(time.Second), 20), planes: map[string]error{}}
}

// observer returns the hooks for the tunnel.
func (w *doorWatcher) observer() tunnel.Observer {
	return tunnel.Observer{SessionOpened: w.opened, SessionClosed: w.closed, Refused: w.refused, DialFailed: w.dialFailed}
}

func (w *doorWatcher) opened(s tunnel.SessionInfo) {
	w.a.metrics.SessionOpened(s.Door, string(s.Kind))
	w.a.journal.Emit(event.Event{
		Kind: event.SessionOpened, Message: fmt.Sprintf("%s opened a %s session from %s", s.Identity, s.Kind, s.Remote),
		Attributes: map[string]string{"door": s.Door, "identity": s.Identity.String(), "kind": string(s.Kind)},
	})
	if addr, dialed := strings.CutPrefix(s.Door, "dial:"); dialed {
		w.plane(addr, nil)
	}
}

func (w *doorWatcher) closed(s tunnel.SessionInfo, cause error) {
	w.a.metrics.SessionClosed(s.Door, string(s.Kind))
	text := "closed"
	if cause != nil {
		text = fault.Words(cause)
	}
	w.a.journal.Emit(event.Event{
		Kind: event.SessionClosed, Message: fmt.Sprintf("the %s session of %s has ended: %s", s.Kind, s.Identity, text),
		Attributes: map[string]string{"door": s.Door, "identity": s.Identity.String(), "kind": string(s.Kind), "cause": text},
	})
}

func (w *doorWatcher) refused(r tunnel.Refusal) {
	w.a.metrics.SessionRefused(r.Door)
	w.mu.Lock()
	if !w.refusals.Allow() {
		w.suppressed++
		w.mu.Unlock()
		return
	}
	suppressed := w.suppressed
	w.suppressed = 0
	w.mu.Unlock()
	cause := string(r.Reason)
	if r.Err != nil {
		cause += ": " + r.Err.Error()
	}
	e := event.Event{
		Kind: event.SessionRefused, Message: fmt.Sprintf("%s was refused: %s", r.Source, cause),
		Attributes: map[string]string{"door": r.Door, "source": r.Source, "cause": cause},
	}
	if suppressed > 0 {
		e.Attributes["suppressed"] = strconv.FormatUint(suppressed, 10)
	}
	w.a.journal.Emit(e)
}

func (w *doorWatcher) dialFailed(addr string, _ tunnel.Kind, err error, _ time.Duration) {
	w.plane(addr, err)
}

// plane keeps the warning about control planes that cannot be reached.
func (w *doorWatcher) plane(addr string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		delete(w.planes, addr)
	} else {
		w.planes[addr] = err
	}
	if len(w.planes) == 0 {
		w.a.health.Clear(warnPlanes)
		return
	}
	var lines []string
	for addr, err := range w.planes {
		lines = append(lines, addr+": "+fault.Words(err))
	}
	slices.Sort(lines)
	w.a.health.Set(warnPlanes, health.Warning, "control planes that cannot be reached: "+strings.Join(lines, "; "))
}
