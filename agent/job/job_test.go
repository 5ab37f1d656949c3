package job_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/agent/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a host in memory that outlives its agents.
type host struct {
	t     *testing.T
	path  string
	world *phonetest.World

	mu      sync.Mutex
	done    []string // parts that were done, in their order
	left    []string // parts that were abandoned
	cleaned []string // payloads
	do      func(ctx context.Context, w job.Work) (*operation.Output, error)
	log     func(slog.Handler) slog.Handler // of the agents; nil: the test's own
}

func newHost(t *testing.T) *host {
	return &host{t: t, path: filepath.Join(t.TempDir(), "db"), world: phonetest.New()}
}

// agent is one life of an agent.
type agent struct {
	*host
	db   *store.DB
	ops  *operation.Table
	sup  *phone.Supervisor
	jobs *job.Runner
	die  func()
}

type images struct{}

func (images) Image(context.Context, string) (phone.Image, error) {
	return phone.Image{Name: "phonehost.dev/testphone:latest", Digest: "sha256:1", Profile: "testphone"}, nil
}

// handlers are a kind that is done again, and one that is not.
func (h *host) handlers() map[operation.Kind]job.Handler {
	do := func(ctx context.Context, w job.Work) (*operation.Output, error) {
		h.mu.Lock()
		h.done = append(h.done, w.PhoneID)
		do := h.do
		h.mu.Unlock()
		return do(ctx, w)
	}
	return map[operation.Kind]job.Handler{
		operation.Command: {Do: do, Abandon: func(_ context.Context, w job.Work) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.left = append(h.left, w.OperationID+" "+w.PhoneID)
			return fmt.Errorf("no such process: %w", errdefs.ErrNotFound)
		}},
		operation.InstallApp: {Do: do, Again: true, Clean: func(payload json.RawMessage) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.cleaned = append(h.cleaned, string(payload))
		}},
	}
}

// start begins an agent's life; die ends it as SIGKILL would, as far as the store can tell.
func (h *host) start() *agent {
	h.t.Helper()
	db, err := store.Open(store.Config{Path: h.path})
	if err != nil {
		h.t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(h.t.Output(), nil))
	if h.log != nil {
		logger = slog.New(h.log(logger.Handler()))
	}
	journal, err := event.New(event.Config{DB: db, Logger: logger})
	if err != nil {
		h.t.Fatal(err)
	}
	a := &agent{host: h, db: db}
	if a.ops, err = operation.New(operation.Config{DB: db, Journal: journal}); err != nil {
		h.t.Fatal(err)
	}
	a.sup, err = phone.New(phone.Config{
		DB: db, Operations: a.ops, Journal: journal, Runtime: h.world, Networks: phonetest.Networks{World: h.world},
		Displays: phonetest.Displays{World: h.world}, Images: images{},
		Host: phone.Capacity{CPUs: 4, MemoryBytes: 8 << 30}, HostBoot: "b", Logger: logger,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := a.sup.Start(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	a.jobs, err = job.New(job.Config{DB: db, Operations: a.ops, Phones: a.sup, Handlers: h.handlers(), Logger: logger})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := a.jobs.Resume(); err != nil {
		h.t.Fatal(err)
	}
	var once sync.Once
	a.die = func() {
		once.Do(func() {
			a.jobs.Close()
			a.sup.Close()
			journal.Close()
			if err := db.Close(); err != nil {
				h.t.Error(err)
			}
		})
	}
	h.t.Cleanup(a.die)
	return a
}

// on makes phones that run.
func (a *agent) on(ids ...string) {
	a.t.Helper()
	for _, id := range ids {
		if _, err := a.sup.Create(a.t.Context(), phone.Spec{ID: id, Image: "testphone", MemoryBytes: 256 << 20}); err != nil {
			a.t.Fatal(err)
		}
	}
	op, err := a.sup.Submit(a.t.Context(), phone.Request{Kind: operation.PowerOn, IDs: ids, RequestedBy: "uid/0"})
	if err != nil {
		a.t.Fatal(err)
	}
	if op = a.ended(op.ID); op.State != operation.Succeeded {
		a.t.Fatalf("power on: %+v", op)
	}
}

// ended waits for the end of an operation.
func (a *agent) ended(id string) operation.Operation {
	a.t.Helper()
	var last operation.Operation
	if err := a.ops.Watch(a.t.Context(), id, func(op operation.Operation) error { last = op; return nil }); err != nil {
		a.t.Fatal(err)
	}
	return last
}

func (a *agent) submit(q job.Request) operation.Operation {
	a.t.Helper()
	q.RequestedBy = "uid/0"
	op, _, err := a.jobs.Submit(q)
	if err != nil {
		a.t.Fatal(err)
	}
	return op
}

func succeed(context.Context, job.Work) (*operation.Output, error) { return nil, nil }

// parts are the states and reasons of an operation's parts.
func partsOf(op operation.Operation) map[string]string {
	all := map[string]string{}
	for _, r := range op.Results {
		all[r.PhoneID] = r.State.String()
		if r.Failure != nil {
			all[r.PhoneID] += " " + r.Failure.Reason
		}
	}
	return all
}

func TestEveryPhoneHasItsOwnResult(t *testing.T) {
	h := newHost(t)
	a := h.start()
	a.on("p1", "p2")
	if _, err := a.sup.Create(t.Context(), phone.Spec{ID: "off", Image: "testphone", MemoryBytes: 256 << 20}); err != nil {
		t.Fatal(err)
	}
	h.do = func(_ context.Context, w job.Work) (*operation.Output, error) {
		out := &operation.Output{Stdout: append([]byte(w.PhoneID+" "), w.Payload...)}
		if w.PhoneID == "p2" {
			return out, fault.New(errdefs.ErrAborted, "WHY", "it went wrong")
		}
		return out, nil
	}
	op := a.ended(a.submit(job.Request{Kind: operation.InstallApp, IDs: []string{"p1", "off", "p2", "none"}, Payload: "it"}).ID)
	want := map[string]string{"p1": "succeeded", "off": "failed NOT_RUNNING", "p2": "failed WHY", "none": "failed NO_SUCH_PHONE"}
	if diff := cmp.Diff(want, partsOf(op)); diff != "" {
		t.Error(diff)
	}
	if out := op.Result("p2").Output; out == nil || string(out.Stdout) != `p2 "it"` {
		t.Errorf("the output of a part that failed is %+v", out)
	}
	a.die() // clean-up follows the stored end
	if diff := cmp.Diff([]string{`"it"`}, slices.Compact(h.cleaned)); diff != "" {
		t.Errorf("cleaned up: %s", diff)
	}
}

func TestSubmitRefuses(t *testing.T) {
	h := newHost(t)
	h.do = succeed
	a := h.start()
	a.on("p1")
	many := make([]string, phone.MaxPhones+1)
	for i := range many {
		many[i] = fmt.Sprint("p", i)
	}
	for name, tt := range map[string]struct {
		q      job.Request
		reason string
	}{
		"nobody":        {job.Request{Kind: operation.Command}, fault.InvalidField},
		"too many":      {job.Request{Kind: operation.Command, IDs: many}, fault.InvalidField},
		"one twice":     {job.Request{Kind: operation.Command, IDs: []string{"p1", "p1"}}, fault.InvalidField},
		"long name":     {job.Request{Kind: operation.Command, IDs: []string{"p1"}, RequestID: string(make([]byte, 65))}, fault.InvalidField},
		"all refuse":    {job.Request{Kind: operation.Command, IDs: []string{"none", "p9"}}, fault.NoSuchPhone},
		"no such kinds": {job.Request{Kind: operation.PowerOn, IDs: []string{"p1"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := a.jobs.Submit(tt.q); err == nil || fault.Reason(err) != tt.reason {
				t.Errorf("%v, want reason %q", err, tt.reason)
			}
		})
	}
	if ops, err := a.ops.List(operation.ListOptions{Limit: 10}); err != nil || len(ops) != 1 {
		t.Errorf("%d operations, %v: want the power-on alone", len(ops), err)
	}
}

func TestRetryReturnsTheFirstOperation(t *testing.T) {
	h := newHost(t)
	h.do = succeed
	a := h.start()
	a.on("p1")
	q := job.Request{Kind: operation.Command, IDs: []string{"p1"}, Payload: 1, RequestID: "mine"}
	one := a.submit(q)
	a.ended(one.ID)
	two, first, err := a.jobs.Submit(job.Request{Kind: q.Kind, IDs: q.IDs, Payload: 1, RequestID: "mine", RequestedBy: "uid/0"})
	if err != nil || first || two.ID != one.ID {
		t.Errorf("the retry made %s (%v, %v), want %s", two.ID, first, err, one.ID)
	}
	q.Payload, q.RequestedBy = 2, "uid/0"
	if _, _, err := a.jobs.Submit(q); fault.Reason(err) != fault.RequestIDReused {
		t.Errorf("another payload: %v", err)
	}
	if diff := cmp.Diff([]string{"p1"}, h.done); diff != "" {
		t.Error(diff)
	}
}

// TestNothingIsDoneTwice ends an agent in the middle of two operations: the next one ends the command as interrupted, after it has
// ended what is left of it, and does the installation again.
func TestNothingIsDoneTwice(t *testing.T) {
	h := newHost(t)
	working := make(chan struct{}, 2)
	h.do = func(ctx context.Context, _ job.Work) (*operation.Output, error) {
		working <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	a := h.start()
	a.on("p1")
	command := a.submit(job.Request{Kind: operation.Command, IDs: []string{"p1"}})
	install := a.submit(job.Request{Kind: operation.InstallApp, IDs: []string{"p1"}, Payload: "apk"})
	<-working
	<-working
	a.die()

	var again bool // written before the operation ends
	h.do = func(_ context.Context, w job.Work) (*operation.Output, error) {
		again = w.Again
		return nil, nil
	}
	b := h.start()
	if diff := cmp.Diff(map[string]string{"p1": "failed INTERRUPTED"}, partsOf(b.ended(command.ID))); diff != "" {
		t.Errorf("command: %s", diff)
	}
	if diff := cmp.Diff(map[string]string{"p1": "succeeded"}, partsOf(b.ended(install.ID))); diff != "" {
		t.Errorf("installation: %s", diff)
	}
	b.die()
	if diff := cmp.Diff([]string{command.ID + " p1"}, h.left); diff != "" {
		t.Errorf("abandoned: %s", diff)
	}
	if len(h.done) != 3 || !slices.Contains(h.cleaned, `"apk"`) {
		t.Errorf("done %v, cleaned %v", h.done, h.cleaned)
	}
	if !again {
		t.Error("the second agent's work does not say that it is done again")
	}
}

// TestTheGuestsEndEndsItsJobs powers a phone off under a part, which fails for a reason of its own.
func TestTheGuestsEndEndsItsJobs(t *testing.T) {
	h := newHost(t)
	working, gone := make(chan struct{}), make(chan struct{})
	h.do = func(context.Context, job.Work) (*operation.Output, error) {
		close(working)
		<-gone
		return nil, errors.New("the pipe broke")
	}
	a := h.start()
	a.on("p1")
	op := a.submit(job.Request{Kind: operation.Command, IDs: []string{"p1"}})
	<-working
	off, err := a.sup.Submit(t.Context(), phone.Request{Kind: operation.PowerOff, IDs: []string{"p1"}, Force: true, RequestedBy: "uid/0"})
	if err != nil {
		t.Fatal(err)
	}
	a.ended(off.ID)
	close(gone)
	if diff := cmp.Diff(map[string]string{"p1": "failed " + job.GuestEnded}, partsOf(a.ended(op.ID))); diff != "" {
		t.Error(diff)
	}
}

// TestEndedWith: another run of a guest is known by its boot and its init; when it began is told anew whenever the clock is set.
func TestEndedWith(t *testing.T) {
	a := newHost(t).start()
	a.on("p1")
	now, err := a.sup.Get("p1")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		edit func(s *phone.Snapshot)
		want bool
	}{
		"the clock was set": {func(s *phone.Snapshot) { s.StartTime = s.StartTime.Add(-time.Hour) }, false},
		"another boot":      {func(s *phone.Snapshot) { s.Boot-- }, true},
		"another init":      {func(s *phone.Snapshot) { s.InitPID++ }, true},
	} {
		before := now
		tt.edit(&before)
		if got := job.EndedWith(t.Context(), a.sup, before); got != tt.want {
			t.Errorf("%s: ended %t, want %t", name, got, tt.want)
		}
	}
}

// TestPartsWaitTheirTurn has more parts in one phone than work at once, and more than may wait.
func TestPartsWaitTheirTurn(t *testing.T) {
	h := newHost(t)
	var most, now int
	let := make(chan struct{})
	began := make(chan struct{}, job.MaxWaiting)
	h.do = func(context.Context, job.Work) (*operation.Output, error) {
		h.mu.Lock()
		now++
		most = max(most, now)
		h.mu.Unlock()
		began <- struct{}{}
		<-let
		h.mu.Lock()
		now--
		h.mu.Unlock()
		return nil, nil
	}
	a := h.start()
	a.on("p1")
	var ids []string
	for range job.MaxWaiting {
		ids = append(ids, a.submit(job.Request{Kind: operation.Command, IDs: []string{"p1"}}).ID)
	}
	if _, _, err := a.jobs.Submit(job.Request{Kind: operation.Command, IDs: []string{"p1"}}); fault.Reason(err) != job.TooMany {
		t.Errorf("one more: %v", err)
	}
	if _, err := a.jobs.Turn(t.Context(), "p1"); fault.Reason(err) != job.TooMany {
		t.Errorf("a turn besides: %v", err)
	}
	for range job.PerPhone {
		<-began
	}
	close(let)
	for _, id := range ids {
		a.ended(id)
	}
	if most != job.PerPhone {
		t.Errorf("%d parts worked at once, want %d", most, job.PerPhone)
	}
	release, err := a.jobs.Turn(t.Context(), "p1")
	if err != nil {
		t.Fatal(err)
	}
	release()
}

func TestFullPhonesRefuseAndOthersDoNot(t *testing.T) {
	h := newHost(t)
	let := make(chan struct{})
	h.do = func(_ context.Context, w job.Work) (*operation.Output, error) {
		if w.PhoneID == "p1" {
			<-let
		}
		return nil, nil
	}
	a := h.start()
	a.on("p1", "p2")
	for range job.MaxWaiting {
		a.submit(job.Request{Kind: operation.Command, IDs: []string{"p1"}})
	}
	op := a.ended(a.submit(job.Request{Kind: operation.Command, IDs: []string{"p1", "p2"}}).ID)
	close(let)
	if diff := cmp.Diff(map[string]string{"p1": "failed " + job.TooMany, "p2": "succeeded"}, partsOf(op), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}
