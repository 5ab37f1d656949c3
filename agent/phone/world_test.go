package phone

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/container"
)

// world is a host in memory: what containerd, the kernel and the disk would hold of phones. It outlives the supervisors of a test,
// as a real host outlives its agents. It keeps the promises of Runtime, Networks, Displays and Images, and checks that the caller
// keeps its own (order of a start, one changing call per phone at a time).
type world struct {
	mu        sync.Mutex
	down      bool // containerd does not answer
	phones    map[string]*body
	networks  map[string]bool
	images    map[string]Image
	events    []chan container.Event
	calls     []string
	violation string
	// hook sees every changing call, "NAME before" and "NAME after"; an error of it is the call's error. May be nil.
	hook func(ctx context.Context, point, id string) error
	// manner says how guests behave.
	manner manner
}

// manner is how a guest behaves.
type manner struct {
	asksToBoot     int           // questions until boot completed; negative: never
	ignoreShutdown bool          // goes on after Shutdown
	exitAfter      time.Duration // exits by itself so long after its start; zero: never
	exitCode       uint32
	displayExits   bool // the display ends right after its start
}

// body is what exists of one phone.
type body struct {
	generations map[uint64]bool
	guest       container.Task
	display     container.Task
	asks        int
	lives       int // counts starts of guests
	busy        bool
}

func newWorld() *world {
	return &world{
		phones: map[string]*body{}, networks: map[string]bool{},
		images: map[string]Image{"testphone": {Digest: "sha256:1", Profile: "testphone"}},
		manner: manner{asksToBoot: 2},
	}
}

// do runs one changing call.
func (w *world) do(ctx context.Context, name, id string, fn func(b *body) error) error {
	w.mu.Lock()
	w.calls = append(w.calls, name)
	hook := w.hook
	b := w.phones[id]
	if b != nil {
		if b.busy {
			w.violation = name + " of " + id + " beside another changing call"
		}
		b.busy = true
		defer func() { w.mu.Lock(); b.busy = false; w.mu.Unlock() }()
	}
	w.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, name+" before", id); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	err := w.check()
	if err == nil {
		if b == nil {
			b = &body{generations: map[uint64]bool{}}
		}
		err = fn(b)
	}
	w.mu.Unlock()
	if err == nil && hook != nil {
		err = hook(ctx, name+" after", id)
	}
	return err
}

// check returns the error of a containerd that does not answer. w.mu is held.
func (w *world) check() error {
	if w.down {
		return fmt.Errorf("ask containerd: %w", errdefs.ErrUnavailable)
	}
	return nil
}

func (w *world) Prepare(ctx context.Context, p container.Phone) error {
	return w.do(ctx, "Prepare", p.ID, func(b *body) error {
		w.phones[p.ID] = b
		b.generations[p.DataGeneration] = true
		return nil
	})
}

func (w *world) StartDisplay(ctx context.Context, p container.Phone) error {
	return w.do(ctx, "StartDisplay", p.ID, func(b *body) error {
		if !w.networks[p.ID] || !b.generations[p.DataGeneration] {
			w.violation = "StartDisplay before network and Prepare"
		}
		if b.display.State == container.TaskRunning {
			return nil
		}
		b.display = container.Task{Container: true, State: container.TaskRunning, PID: 7}
		if w.manner.displayExits {
			time.AfterFunc(time.Millisecond, func() { w.exit(p.ID, container.Display, 1) })
		}
		return nil
	})
}

func (w *world) StartGuest(ctx context.Context, p container.Phone) error {
	return w.do(ctx, "StartGuest", p.ID, func(b *body) error {
		if b.display.State != container.TaskRunning {
			w.violation = "StartGuest without a display"
		}
		if b.guest.State == container.TaskRunning {
			return nil
		}
		b.lives++
		b.asks = 0
		b.guest = container.Task{
			Container: true, State: container.TaskRunning, PID: uint32(100 + b.lives), StartedAt: time.Now(),
			BootGeneration: p.BootGeneration, DataGeneration: p.DataGeneration, ImageDigest: p.ImageDigest,
		}
		if m := w.manner; m.exitAfter > 0 {
			w.exitLater(m.exitAfter, p.ID, b, m.exitCode)
		}
		return nil
	})
}

func (w *world) Shutdown(ctx context.Context, id string) error {
	return w.do(ctx, "Shutdown", id, func(b *body) error {
		if b.guest.State == container.TaskRunning && !w.manner.ignoreShutdown {
			w.exitLater(time.Second, id, b, 130)
		}
		return nil
	})
}

func (w *world) Kill(ctx context.Context, id string, role container.Role) error {
	return w.do(ctx, "Kill", id, func(b *body) error {
		if role != container.Guest {
			w.violation = "Kill of a display"
		}
		w.exitLater(time.Millisecond, id, b, 137)
		return nil
	})
}

// exitLater has the guest that runs now end after a time, unless it has ended before. w.mu is held.
func (w *world) exitLater(after time.Duration, id string, b *body, code uint32) {
	life := b.lives
	time.AfterFunc(after, func() {
		w.mu.Lock()
		same := b.lives == life
		w.mu.Unlock()
		if same {
			w.exit(id, container.Guest, code)
		}
	})
}

func (w *world) RemoveGuest(ctx context.Context, id string) error {
	return w.do(ctx, "RemoveGuest", id, func(b *body) error { b.guest = container.Task{}; return nil })
}

func (w *world) RemoveDisplay(ctx context.Context, id string) error {
	return w.do(ctx, "RemoveDisplay", id, func(b *body) error {
		if b.guest.State == container.TaskRunning {
			w.violation = "RemoveDisplay under a guest"
		}
		b.display = container.Task{}
		return nil
	})
}

func (w *world) KeepGeneration(ctx context.Context, id string, keep uint64) error {
	return w.do(ctx, "KeepGeneration", id, func(b *body) error {
		if !b.generations[keep] {
			w.violation = "KeepGeneration without that generation"
		}
		b.generations = map[uint64]bool{keep: true}
		return nil
	})
}

func (w *world) Destroy(ctx context.Context, id string) error {
	return w.do(ctx, "Destroy", id, func(*body) error { delete(w.phones, id); return nil })
}

func (w *world) Observe(ctx context.Context, id string) (container.Observation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.check(); err != nil {
		return container.Observation{}, err
	}
	if b := w.phones[id]; b != nil {
		return container.Observation{Guest: b.guest, Display: b.display}, ctx.Err()
	}
	return container.Observation{}, ctx.Err()
}

func (w *world) IDs(context.Context) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []string
	for id := range w.phones {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, w.check()
}

func (w *world) Events(ctx context.Context) <-chan container.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := make(chan container.Event, 1024)
	w.events = append(w.events, ch)
	context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = slices.DeleteFunc(w.events, func(c chan container.Event) bool { return c == ch })
		close(ch)
	})
	return ch
}

func (w *world) BootCompleted(ctx context.Context, id string) (bool, string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.check(); err != nil {
		return false, "", err
	}
	b := w.phones[id]
	if b == nil || b.guest.State != container.TaskRunning {
		return false, "", fmt.Errorf("ask guest %s: %w", id, errdefs.ErrNotFound)
	}
	b.asks++
	done := w.manner.asksToBoot >= 0 && b.asks > w.manner.asksToBoot
	return done, fmt.Sprintf("sys.boot_completed=%q", map[bool]string{true: "1"}[done]), ctx.Err()
}

// exit ends a task and reports it.
func (w *world) exit(id string, role container.Role, code uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.phones[id]
	if b == nil {
		return
	}
	task := &b.guest
	if role == container.Display {
		task = &b.display
	}
	if task.State != container.TaskRunning {
		return
	}
	task.State, task.PID, task.ExitCode, task.ExitedAt, task.StartedAt = container.TaskStopped, 0, code, time.Now(), time.Time{}
	w.send(container.Event{Kind: container.Exited, PhoneID: id, Role: role, ExitCode: code, Time: time.Now()})
}

// send reports an event. w.mu is held.
func (w *world) send(e container.Event) {
	for _, ch := range w.events {
		ch <- e
	}
}

// setDown makes containerd stop answering, or answer again.
func (w *world) setDown(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
	kind := container.Back
	if down {
		kind = container.Lost
	}
	w.send(container.Event{Kind: kind, Time: time.Now()})
}

// restartHost ends everything as a restart of the host does: containers stay, tasks and network namespaces go.
func (w *world) restartHost() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.networks = map[string]bool{}
	for _, b := range w.phones {
		for _, t := range []*container.Task{&b.guest, &b.display} {
			t.State, t.PID, t.StartedAt = container.TaskNone, 0, time.Time{}
		}
	}
}

// networksOf is the world's Networks. Its calls have no context: life ends them in a test that ends the agent's life.
type networksOf struct {
	*world
	life context.Context
}

func (n networksOf) Create(id string) (string, error) {
	err := n.do(n.life, "CreateNetwork", id, func(*body) error { n.networks[id] = true; return nil })
	return "/netns/" + id, err
}

func (n networksOf) Delete(id string) error {
	return n.do(n.life, "DeleteNetwork", id, func(*body) error { delete(n.networks, id); return nil })
}

func (n networksOf) List() ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ids []string
	for id := range n.networks {
		ids = append(ids, id)
	}
	return ids, nil
}

// displaysOf is the world's Displays.
type displaysOf struct{ *world }

func (d displaysOf) Track(string) error { return nil }
func (d displaysOf) Close(string)       {}

func (d displaysOf) WaitReady(ctx context.Context, id string) error {
	d.mu.Lock()
	exits := d.manner.displayExits
	d.mu.Unlock()
	if exits {
		<-ctx.Done()
		return ctx.Err()
	}
	return d.do(ctx, "WaitReady", id, func(b *body) error {
		if b.display.State != container.TaskRunning {
			return fmt.Errorf("connect: %w", errdefs.ErrUnavailable)
		}
		return nil
	})
}

// imagesOf is the world's Images.
type imagesOf struct{ *world }

func (i imagesOf) Image(_ context.Context, ref string) (Image, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if img, found := i.images[ref]; found {
		return img, nil
	}
	return Image{}, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
}
