// Package phonetest provides a host in memory for tests of what drives phones.
//
// A World holds what containerd, the kernel and the disk would hold. It keeps the promises of phone.Runtime, phone.Volumes,
// phone.Networks and phone.Displays, outlives the supervisors of a test as a real host outlives its agents, and notes when a caller breaks a rule: the
// order of a start, and one changing call per phone at a time. Its times are those of package time, so that a test in a synctest
// bubble needs no others.
package phonetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/runtime/container"
)

// World is a host in memory. Lock it to read or change its fields while a supervisor works on it.
type World struct {
	sync.Mutex
	// Bodies holds what exists of each phone, Nets the networks that were made.
	Bodies map[string]*Body
	Nets   map[string]netpolicy.Phone
	// Archives holds what was received to be imported: what users had, by name.
	Archives map[string]string
	// Calls names the changing calls in their order.
	Calls []string
	// Violation is the last rule that a caller broke, or empty.
	Violation string
	// Hook sees every changing call, "NAME before" and "NAME after"; an error of it is the call's error. May be nil.
	Hook func(ctx context.Context, point, id string) error
	// CheckForward refuses forwards that cannot be taken on; nil: none.
	CheckForward func(ctx context.Context, f netpolicy.Forward) error
	// Manner says how guests behave.
	Manner Manner

	down    bool            // containerd does not answer
	netBusy map[string]bool // a call for the phone's network is under way
	events  []chan container.Event
}

// Manner is how guests and displays behave.
type Manner struct {
	// AsksToBoot is how many questions it takes until boot completed; negative: for ever.
	AsksToBoot int
	// AnswerAfter is how long an answer to such a question takes.
	AnswerAfter time.Duration
	// DrawsNothing has guests show nothing on their displays; else they do from their start on.
	DrawsNothing bool
	// IgnoreShutdown goes on after Shutdown.
	IgnoreShutdown bool
	// ExitAfter ends a guest so long after its start, with ExitCode; zero: never.
	ExitAfter time.Duration
	ExitCode  uint32
	// DisplayExits ends every display right after its start.
	DisplayExits bool
}

// Body is what exists of one phone.
type Body struct {
	// Generations are the data generations on disk.
	Generations map[uint64]bool
	// Volumes are their data volumes.
	Volumes map[uint64]Volume
	// Roots are the root file systems on disk: the digest of the image that each was made from, by data generation.
	Roots map[uint64][]string
	// Guest and Display are the phone's tasks.
	Guest, Display container.Task
	// VCPUs and CPUWeight are what the guest may use now; its memory is in Guest.
	VCPUs     float64
	CPUWeight uint32
	// Log is what the present guest has printed.
	Log string

	asks  int // questions to the present guest
	looks int // looks at a guest that runs
	lives int // counts starts of guests
	busy  bool
}

// New returns a host without phones, whose guests boot at the third question.
func New() *World {
	return &World{Bodies: map[string]*Body{}, Nets: map[string]netpolicy.Phone{}, netBusy: map[string]bool{}, Archives: map[string]string{}, Manner: Manner{AsksToBoot: 2}}
}

// do runs one changing call.
func (w *World) do(ctx context.Context, name, id string, fn func(b *Body) error) error {
	w.Lock()
	w.Calls = append(w.Calls, name)
	hook := w.Hook
	b := w.Bodies[id]
	if b != nil {
		if b.busy {
			w.Violation = name + " of " + id + " beside another changing call"
		}
		b.busy = true
		defer func() { w.Lock(); b.busy = false; w.Unlock() }()
	}
	w.Unlock()
	if hook != nil {
		if err := hook(ctx, name+" before", id); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	w.Lock()
	err := w.check()
	if err == nil {
		if b == nil {
			b = &Body{Generations: map[uint64]bool{}, Volumes: map[uint64]Volume{}}
		}
		err = fn(b)
	}
	w.Unlock()
	if err == nil && hook != nil {
		err = hook(ctx, name+" after", id)
	}
	return err
}

// check returns the error of a containerd that does not answer. w is locked.
func (w *World) check() error {
	if w.down {
		return fmt.Errorf("ask containerd: %w", errdefs.ErrUnavailable)
	}
	return nil
}

// Prepare implements phone.Runtime.
func (w *World) Prepare(ctx context.Context, p container.Phone) error {
	return w.do(ctx, "Prepare", p.ID, func(b *Body) error {
		w.Bodies[p.ID] = b
		b.Generations[p.DataGeneration] = true
		if _, there := b.Volumes[p.DataGeneration]; !there {
			if b.Volumes == nil {
				b.Volumes = map[uint64]Volume{}
			}
			b.Volumes[p.DataGeneration] = Volume{Bytes: p.DataBytes}
		}
		b.root(p)
		return nil
	})
}

// StartDisplay implements phone.Runtime.
func (w *World) StartDisplay(ctx context.Context, p container.Phone) error {
	return w.do(ctx, "StartDisplay", p.ID, func(b *Body) error {
		if _, wired := w.Nets[p.ID]; !wired || !b.Generations[p.DataGeneration] {
			w.Violation = "StartDisplay before network and Prepare"
		}
		if b.Display.State == container.TaskRunning {
			return nil
		}
		b.Display = container.Task{Container: true, State: container.TaskRunning, PID: 7, Note: p.Note}
		if w.Manner.DisplayExits {
			time.AfterFunc(time.Millisecond, func() { w.Exit(p.ID, container.Display, 1) })
		}
		return nil
	})
}

// StartGuest implements phone.Runtime.
func (w *World) StartGuest(ctx context.Context, p container.Phone) error {
	return w.do(ctx, "StartGuest", p.ID, func(b *Body) error {
		if b.Display.State != container.TaskRunning {
			w.Violation = "StartGuest without a display"
		}
		if !slices.Contains(b.Roots[p.DataGeneration], p.ImageDigest) {
			w.Violation = "StartGuest without a root file system of its image"
		}
		if b.Guest.State == container.TaskRunning {
			return nil
		}
		b.lives++
		b.asks = 0
		b.Guest = container.Task{
			Container: true, State: container.TaskRunning, PID: uint32(100 + b.lives), StartedAt: time.Now(),
			BootGeneration: p.BootGeneration, DataGeneration: p.DataGeneration, ImageDigest: p.ImageDigest,
			Note: p.Note, MemoryBytes: p.MemoryBytes,
		}
		b.VCPUs, b.CPUWeight, b.Log = p.VCPUs, p.CPUWeight, ""
		if m := w.Manner; m.ExitAfter > 0 {
			w.exitLater(m.ExitAfter, p.ID, b, m.ExitCode)
		}
		return nil
	})
}

// Shutdown implements phone.Runtime.
func (w *World) Shutdown(ctx context.Context, id string) error {
	return w.do(ctx, "Shutdown", id, func(b *Body) error {
		if b.Guest.State == container.TaskRunning && !w.Manner.IgnoreShutdown {
			w.exitLater(time.Second, id, b, 130)
		}
		return nil
	})
}

// Kill implements phone.Runtime.
func (w *World) Kill(ctx context.Context, id string, role container.Role) error {
	return w.do(ctx, "Kill", id, func(b *Body) error {
		if role != container.Guest {
			w.Violation = "Kill of a display"
		}
		w.exitLater(time.Millisecond, id, b, 137)
		return nil
	})
}

// exitLater has the guest that runs now end after a time, unless it has ended before. w is locked.
func (w *World) exitLater(after time.Duration, id string, b *Body, code uint32) {
	life := b.lives
	time.AfterFunc(after, func() {
		w.Lock()
		same := b.lives == life
		w.Unlock()
		if same {
			w.Exit(id, container.Guest, code)
		}
	})
}

// RemoveGuest implements phone.Runtime.
func (w *World) RemoveGuest(ctx context.Context, id string) error {
	return w.do(ctx, "RemoveGuest", id, func(b *Body) error { b.Guest = container.Task{}; return nil })
}

// RemoveDisplay implements phone.Runtime.
func (w *World) RemoveDisplay(ctx context.Context, id string) error {
	return w.do(ctx, "RemoveDisplay", id, func(b *Body) error {
		if b.Guest.State == container.TaskRunning {
			w.Violation = "RemoveDisplay under a guest"
		}
		b.Display = container.Task{}
		return nil
	})
}

// KeepGeneration implements phone.Runtime.
func (w *World) KeepGeneration(ctx context.Context, id string, keep uint64) error {
	return w.do(ctx, "KeepGeneration", id, func(b *Body) error {
		if !b.Generations[keep] {
			w.Violation = "KeepGeneration without that generation"
		}
		b.Generations = map[uint64]bool{keep: true}
		maps.DeleteFunc(b.Volumes, func(generation uint64, _ Volume) bool { return generation != keep })
		maps.DeleteFunc(b.Roots, func(generation uint64, _ []string) bool { return generation != keep })
		return nil
	})
}

// SetLimits implements phone.Runtime.
func (w *World) SetLimits(ctx context.Context, p container.Phone) error {
	return w.do(ctx, "SetLimits", p.ID, func(b *Body) error {
		if b.Guest.State != container.TaskRunning {
			return nil
		}
		b.VCPUs, b.CPUWeight = p.VCPUs, p.CPUWeight
		b.Guest.MemoryBytes = max(b.Guest.MemoryBytes, p.MemoryBytes)
		return nil
	})
}

// LogTail implements phone.Runtime.
func (w *World) LogTail(_ context.Context, id string, role container.Role, _ time.Time, limit int) (string, error) {
	w.Lock()
	defer w.Unlock()
	b := w.Bodies[id]
	if b == nil || role != container.Guest {
		return "", nil
	}
	text := strings.ToValidUTF8(b.Log, "\uFFFD")
	return strings.ToValidUTF8(text[max(0, len(text)-limit):], ""), nil
}

// Destroy implements phone.Runtime.
func (w *World) Destroy(ctx context.Context, id string) error {
	return w.do(ctx, "Destroy", id, func(*Body) error { delete(w.Bodies, id); return nil })
}

// Observe implements phone.Runtime.
func (w *World) Observe(ctx context.Context, id string) (container.Observation, error) {
	w.Lock()
	defer w.Unlock()
	if err := w.check(); err != nil {
		return container.Observation{}, err
	}
	b := w.Bodies[id]
	if b == nil {
		return container.Observation{}, ctx.Err()
	}
	o := container.Observation{Guest: b.Guest, Display: b.Display}
	if o.Guest.State == container.TaskRunning {
		// The engine reckons it from the process's age, and no two looks at one process have quite the same.
		b.looks++
		o.Guest.StartedAt = o.Guest.StartedAt.Add(time.Duration(b.looks%3) * time.Microsecond)
	}
	return o, ctx.Err()
}

// IDs implements phone.Runtime.
func (w *World) IDs(context.Context) ([]string, error) {
	w.Lock()
	defer w.Unlock()
	var ids []string
	for id := range w.Bodies {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, w.check()
}

// Events implements phone.Runtime.
func (w *World) Events(ctx context.Context) <-chan container.Event {
	w.Lock()
	defer w.Unlock()
	ch := make(chan container.Event, 1024)
	ch <- container.Event{Kind: container.Back, Time: time.Now()} // as the engine does: from here on nothing is missed
	w.events = append(w.events, ch)
	context.AfterFunc(ctx, func() {
		w.Lock()
		defer w.Unlock()
		w.events = slices.DeleteFunc(w.events, func(c chan container.Event) bool { return c == ch })
		close(ch)
	})
	return ch
}

// BootCompleted implements phone.Runtime.
func (w *World) BootCompleted(ctx context.Context, id string) (bool, string, error) {
	w.Lock()
	after := w.Manner.AnswerAfter
	w.Unlock()
	if after > 0 {
		select {
		case <-time.After(after):
		case <-ctx.Done():
			return false, "", fmt.Errorf("ask guest %s: %w", id, ctx.Err())
		}
	}
	w.Lock()
	defer w.Unlock()
	if err := w.check(); err != nil {
		return false, "", err
	}
	b := w.Bodies[id]
	if b == nil || b.Guest.State != container.TaskRunning {
		return false, "", fmt.Errorf("ask guest %s: %w", id, errdefs.ErrNotFound)
	}
	b.asks++
	done := w.Manner.AsksToBoot >= 0 && b.asks > w.Manner.AsksToBoot
	return done, fmt.Sprintf("sys.boot_completed=%q", map[bool]string{true: "1"}[done]), ctx.Err()
}

// Asks returns how often the phone's present guest has been asked whether it has booted.
func (w *World) Asks(id string) int {
	w.Lock()
	defer w.Unlock()
	return w.Bodies[id].asks
}

// Exit ends a task and reports it.
func (w *World) Exit(id string, role container.Role, code uint32) {
	w.Lock()
	defer w.Unlock()
	b := w.Bodies[id]
	if b == nil {
		return
	}
	task := &b.Guest
	if role == container.Display {
		task = &b.Display
	}
	if task.State != container.TaskRunning {
		return
	}
	task.State, task.PID, task.ExitCode, task.ExitedAt, task.StartedAt = container.TaskStopped, 0, code, time.Now(), time.Time{}
	w.send(container.Event{Kind: container.Exited, PhoneID: id, Role: role, ExitCode: code, Time: time.Now()})
}

// OOM has the kernel kill a process of the guest that runs, and reports it if told is set.
func (w *World) OOM(id string, told bool) {
	w.Lock()
	defer w.Unlock()
	w.Bodies[id].Guest.OOMKills++
	if told {
		w.send(container.Event{Kind: container.OOM, PhoneID: id, Role: container.Guest, Time: time.Now()})
	}
}

// Print has the guest print a text.
func (w *World) Print(id, text string) {
	w.Lock()
	defer w.Unlock()
	w.Bodies[id].Log += text
}

// send reports an event. w is locked.
func (w *World) send(e container.Event) {
	for _, ch := range w.events {
		ch <- e
	}
}

// Set changes how guests behave from now on.
func (w *World) Set(m Manner) {
	w.Lock()
	defer w.Unlock()
	w.Manner = m
}

// Count returns how often a changing call was made.
func (w *World) Count(call string) int {
	w.Lock()
	defer w.Unlock()
	n := 0
	for _, c := range w.Calls {
		if c == call {
			n++
		}
	}
	return n
}

// SetDown makes containerd stop answering, or answer again.
func (w *World) SetDown(down bool) {
	w.Lock()
	defer w.Unlock()
	w.down = down
	kind := container.Back
	if down {
		kind = container.Lost
	}
	w.send(container.Event{Kind: kind, Time: time.Now()})
}

// RestartHost ends everything as a restart of the host does: containers stay, tasks and network namespaces go.
func (w *World) RestartHost() {
	w.Lock()
	defer w.Unlock()
	w.Nets = map[string]netpolicy.Phone{}
	for _, b := range w.Bodies {
		for _, t := range []*container.Task{&b.Guest, &b.Display} {
			t.State, t.PID, t.StartedAt = container.TaskNone, 0, time.Time{}
		}
	}
}
