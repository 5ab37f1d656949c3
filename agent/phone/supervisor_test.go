package phone

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/agent/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// library is the images of a host.
type library map[string]Image

// Image implements Images.
func (l library) Image(_ context.Context, ref string) (Image, error) {
	if img, found := l[ref]; found {
		img.Name = ref
		return img, nil
	}
	if strings.Contains(ref, " ") {
		return Image{}, fmt.Errorf("image reference %q: %w", ref, errdefs.ErrInvalidArgument)
	}
	return Image{}, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
}

// agent is one life of the agent over a world and a database file.
type agent struct {
	*Supervisor
	t    *testing.T
	w    *phonetest.World
	path string
	db   *store.DB
	ops  *operation.Table
	log  *event.Journal
	// images of this life; only the test's goroutine asks for them and changes them.
	images library
}

// startAgent begins a life; stop ends it.
func startAgent(t *testing.T, w *phonetest.World, path string, edit func(*Config)) *agent {
	t.Helper()
	db, err := store.Open(store.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	journal, err := event.New(event.Config{DB: db, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	ops, err := operation.New(operation.Config{DB: db, Journal: journal})
	if err != nil {
		t.Fatal(err)
	}
	images := library{"testphone": {Digest: "sha256:1", Profile: "testphone"}}
	cfg := Config{
		DB: db, Operations: ops, Journal: journal,
		Runtime: w, Networks: phonetest.Networks{World: w}, Displays: phonetest.Displays{World: w}, Images: images,
		Volumes: w, Archives: w,
		Host: Capacity{CPUs: 4, MemoryBytes: 8 << 30}, HostBoot: "boot-1", Logger: logger,
	}
	if edit != nil {
		edit(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &agent{Supervisor: s, t: t, w: w, path: path, db: db, ops: ops, log: journal, images: images}
}

// stop ends the life, and fails the test if the agent has broken a rule of the world.
func (a *agent) stop() {
	a.t.Helper()
	a.Close()
	a.log.Close()
	if err := a.db.Close(); err != nil {
		a.t.Error(err)
	}
	if a.w.Violation != "" {
		a.t.Errorf("the supervisor broke a rule: %s", a.w.Violation)
	}
}

// runAgent runs fn in a bubble of fake time with a fresh world and agent.
func runAgent(t *testing.T, fn func(t *testing.T, a *agent)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		a := startAgent(t, phonetest.New(), path, nil)
		defer a.stop()
		fn(t, a)
	})
}

// create makes a phone.
func (a *agent) create(id string) {
	a.t.Helper()
	if _, err := a.Create(a.t.Context(), Spec{ID: id, Image: "testphone", MemoryBytes: 256 << 20}); err != nil {
		a.t.Fatal(err)
	}
}

// submit asks for one phone and returns the accepted operation.
func (a *agent) submit(kind operation.Kind, id string, edit func(*Request)) operation.Operation {
	a.t.Helper()
	q := Request{Kind: kind, IDs: []string{id}, RequestedBy: "uid/0"}
	if edit != nil {
		edit(&q)
	}
	op, err := a.Submit(a.t.Context(), q)
	if err != nil {
		a.t.Fatalf("%s of %s: %v", kind, id, err)
	}
	return op
}

// finish waits for an operation and returns the part of its only phone.
func (a *agent) finish(op operation.Operation) operation.Result {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), time.Hour)
	defer cancel()
	var last operation.Operation
	err := a.ops.Watch(ctx, op.ID, func(op operation.Operation) error { last = op; return nil })
	if err != nil {
		a.t.Fatalf("wait for %s of %v: %v (%+v)", op.Kind, op.Results, err, last.Results)
	}
	return last.Results[0]
}

// do asks, waits, and fails the test unless the part ends as it should.
func (a *agent) do(kind operation.Kind, id string, want operation.State) operation.Result {
	a.t.Helper()
	r := a.finish(a.submit(kind, id, nil))
	if r.State != want {
		a.t.Fatalf("%s of %s: %s (%+v), want %s", kind, id, r.State, r.Failure, want)
	}
	return r
}

// want fails the test unless the phone has the status when nothing moves any more.
func (a *agent) want(id string, want Status) Snapshot {
	a.t.Helper()
	synctest.Wait()
	snap, err := a.Get(id)
	if err != nil {
		a.t.Fatal(err)
	}
	if snap.Status != want {
		a.t.Fatalf("phone %s is %s (%s), want %s", id, snap.Status, snap.Reason, want)
	}
	return snap
}

// kinds returns the journal's events as "KIND attribute" words for one phone.
func (a *agent) kinds(id string) []string {
	a.t.Helper()
	synctest.Wait()
	time.Sleep(20 * time.Millisecond) // fake time: lets the journal's writer gather
	synctest.Wait()
	var words []string
	err := a.log.Watch(a.t.Context(), event.WatchOptions{PhoneID: id, NoFollow: true}, func(events []event.Event) error {
		for _, e := range events {
			words = append(words, fmt.Sprintf("%d%s%s", e.Kind, e.Attributes["to"], e.Attributes["meaning"]))
		}
		return nil
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return words
}

func TestLife(t *testing.T) {
	runAgent(t, func(t *testing.T, a *agent) {
		a.create("p1")
		a.want("p1", Stopped)
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		snap := a.want("p1", Running)
		if snap.InitPID == 0 || snap.BootTime.IsZero() || snap.Record.BootGeneration != 1 || !snap.DisplayOn {
			t.Errorf("snapshot of a running phone: %+v", snap)
		}
		a.do(operation.Restart, "p1", operation.Succeeded)
		if snap := a.want("p1", Running); snap.Record.BootGeneration != 2 {
			t.Errorf("boot generation is %d after a restart, want 2", snap.Record.BootGeneration)
		}
		a.do(operation.Reset, "p1", operation.Succeeded)
		if snap := a.want("p1", Running); snap.Record.DataGeneration != 2 || snap.Record.KeptGeneration != 2 {
			t.Errorf("data generation %d kept %d after a reset, want 2", snap.Record.DataGeneration, snap.Record.KeptGeneration)
		}
		a.do(operation.PowerOff, "p1", operation.Succeeded)
		a.want("p1", PoweredOff)
		a.do(operation.Reset, "p1", operation.Succeeded)
		if snap := a.want("p1", PoweredOff); snap.Record.KeptGeneration != 3 {
			t.Errorf("kept generation %d after a reset while off, want 3", snap.Record.KeptGeneration)
		}
		a.do(operation.Delete, "p1", operation.Succeeded)
		if _, err := a.Get("p1"); err == nil {
			t.Error("a deleted phone is still there")
		}
		if len(a.w.Bodies) != 0 || len(a.w.Nets) != 0 {
			t.Errorf("left behind: %v %v", a.w.Bodies, a.w.Nets)
		}
	})
}
