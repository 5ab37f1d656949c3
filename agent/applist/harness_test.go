package applist

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/netpolicy/applist"
	"github.com/phonehost/phonehost/runtime/image/preinstalled"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kernel is the kernel's side of a host in memory. It outlives the managers of a test, as a kernel does.
type kernel struct {
	mu     sync.Mutex
	status Status
	rules  map[uint64]Rules
	// runs counts the processes of apps, by the directory of their cgroup and their app id.
	runs map[string]map[uint32]int
	// fail is the error of SetPhone, and takes how much longer it takes for each next slot, where it changes anything.
	fail  error
	takes time.Duration
	// sets counts the calls of SetPhone that changed something.
	sets     int
	refusals map[uint32][]Refusal
	events   chan uint32
}

func newKernel() *kernel {
	return &kernel{
		status: Status{Tier: "A", Mechanism: "lsm", Install: true, Launch: true, Network: true},
		rules:  map[uint64]Rules{}, runs: map[string]map[uint32]int{}, refusals: map[uint32][]Refusal{}, events: make(chan uint32),
	}
}

func (k *kernel) edit(fn func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fn()
}

func (k *kernel) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

func (k *kernel) SetPhone(cgroup uint64, r Rules) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return k.fail
	}
	if have, there := k.rules[cgroup]; !there || !have.same(r) || fmt.Sprint(have.Names) != fmt.Sprint(r.Names) {
		k.sets++
		k.mu.Unlock()
		time.Sleep(k.takes * time.Duration(r.Slot)) // of the bubble
		k.mu.Lock()
	}
	maps.DeleteFunc(k.rules, func(_ uint64, have Rules) bool { return have.Slot == r.Slot })
	k.rules[cgroup] = r
	return nil
}

func (k *kernel) RemovePhone(cgroup uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r, there := k.rules[cgroup]; there {
		delete(k.refusals, r.Slot)
		delete(k.rules, cgroup)
	}
	return nil
}

func (k *kernel) Phones() map[uint64]uint32 {
	k.mu.Lock()
	defer k.mu.Unlock()
	slots := map[uint64]uint32{}
	for cgroup, r := range k.rules {
		slots[cgroup] = r.Slot
	}
	return slots
}

func (k *kernel) Kill(_ context.Context, dir string, doomed func(uint32) bool) (killed int, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for app, n := range k.runs[dir] {
		if doomed(app) {
			killed += n
			delete(k.runs[dir], app)
		}
	}
	return killed, nil
}

func (k *kernel) DrainDenials(slot uint32, report func([]Refusal) error) error {
	k.mu.Lock()
	some := k.refusals[slot]
	delete(k.refusals, slot)
	k.mu.Unlock()
	if len(some) == 0 {
		return nil
	}
	err := report(some)
	if err != nil {
		k.edit(func() { k.refusals[slot] = append(some, k.refusals[slot]...) })
	}
	return err
}

func (k *kernel) Events(ctx context.Context) iter.Seq2[uint32, error] {
	return func(yield func(uint32, error) bool) {
		for {
			select {
			case slot := <-k.events:
				if !yield(slot, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// refuse has something be refused, and tells of it.
func (k *kernel) refuse(slot uint32, some ...Refusal) {
	k.edit(func() { k.refusals[slot] = append(k.refusals[slot], some...) })
	k.events <- slot
}

// life is one life of an agent over a host.
type life struct {
	*Manager
	h       *host
	t       *testing.T
	sup     *phone.Supervisor
	db      *store.DB
	ops     *operation.Table
	journal *event.Journal
}

// library is what is known of the packages of images. The zero value knows nothing.
type library struct {
	mu sync.Mutex
	// known has those that were read, by digest, reading what is closed when one was that is being read.
	known   map[string]preinstalled.Packages
	reading map[string]chan struct{}
}

// read has an image be read, and its packages be those.
func (l *library) read(digest string, p preinstalled.Packages) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil {
		l.known = map[string]preinstalled.Packages{}
	}
	l.known[digest] = p
	if c := l.reading[digest]; c != nil {
		close(c)
		delete(l.reading, digest)
	}
}

// begin has an image be one that is being read.
func (l *library) begin(digest string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reading = map[string]chan struct{}{digest: make(chan struct{})}
}

// Packages implements Images.
func (l *library) Packages(digest string) (preinstalled.Packages, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, known := l.known[digest]; known {
		return p, nil
	}
	if l.reading[digest] != nil {
		return preinstalled.Packages{}, fmt.Errorf("they are being read: %w", errdefs.ErrUnavailable)
	}
	return preinstalled.Packages{}, fmt.Errorf("image %s is not on this host: %w", digest, errdefs.ErrNotFound)
}

// Await implements Images.
func (l *library) Await(ctx context.Context, digest string) error {
	l.mu.Lock()
	reading := l.reading[digest]
	l.mu.Unlock()
	if reading != nil {
		select {
		case <-reading:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	_, err := l.Packages(digest)
	return err
}

// shelf has the images of the host.
type shelf map[string]phone.Image

func (l shelf) Image(_ context.Context, ref string) (phone.Image, error) {
	if img, there := l[ref]; there {
		img.Name = ref
		return img, nil
	}
	return phone.Image{}, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
}

// begin begins a life.
func (h *host) begin() *life {
	h.t.Helper()
	return h.beginOver(h.k)
}

// beginOver is begin over another Enforcer.
func (h *host) beginOver(e Enforcer) *life {
	h.t.Helper()
	must := func(err error) {
		if err != nil {
			h.t.Fatal(err)
		}
	}
	db, err := store.Open(store.Config{Path: filepath.Join(h.dir, "db")})
	must(err)
	logger := slog.New(slog.NewTextHandler(h.t.Output(), nil))
	journal, err := event.New(event.Config{DB: db, Logger: logger})
	must(err)
	ops, err := operation.New(operation.Config{DB: db, Journal: journal})
	must(err)
	l := &life{h: h, t: h.t, db: db, ops: ops, journal: journal}
	l.Manager, err = Open(Config{
		DB: db, Journal: journal, Enforcer: e, Guests: h, Packages: h.follow, Images: &h.images, Logger: logger,
	})
	must(err)
	l.sup, err = phone.New(phone.Config{
		DB: db, Operations: ops, Journal: journal, Runtime: h.w, Networks: phonetest.Networks{World: h.w}, Displays: phonetest.Displays{World: h.w},
		Images: shelf{"testphone": {Digest: "sha256:1", Profile: "testphone"}, "newer": {Digest: "sha256:2", Profile: "testphone"}}, Volumes: h.w,
		Host: phone.Capacity{CPUs: 4, MemoryBytes: 64 << 30}, HostBoot: "b", Logger: logger, AppLists: l.Manager, CheckAppList: l.CheckAssign,
	})
	must(err)
	l.Start(h.t.Context(), l.sup)
	must(l.sup.Start(h.t.Context()))
	return l
}

// end ends a life in order.
func (l *life) end() {
	l.t.Helper()
	l.sup.Close()
	l.Close()
	l.journal.Close()
	if err := l.db.Close(); err != nil {
		l.t.Error(err)
	}
	if l.h.w.Violation != "" {
		l.t.Errorf("the agent broke a rule: %s", l.h.w.Violation)
	}
}

// inBubble runs fn in fake time over a fresh host.
func inBubble(t *testing.T, fn func(t *testing.T, h *host)) {
	t.Helper()
	h := newHost(t)
	synctest.Test(t, func(t *testing.T) {
		h.t, h.k.events = t, make(chan uint32) // of the bubble
		fn(t, h)
	})
}

// create makes a phone, on a list where one is named.
func (l *life) create(id, list string) {
	l.t.Helper()
	if _, err := l.sup.Create(l.t.Context(), phone.Spec{ID: id, Image: "testphone", MemoryBytes: 256 << 20, AppList: list}); err != nil {
		l.t.Fatal(err)
	}
}

// do asks for an operation on a phone, and returns how it ended.
func (l *life) do(kind operation.Kind, id string, edit func(*phone.Request)) operation.Result {
	l.t.Helper()
	q := phone.Request{Kind: kind, IDs: []string{id}, RequestedBy: "uid/0"}
	if edit != nil {
		edit(&q)
	}
	op, err := l.sup.Submit(l.t.Context(), q)
	if err != nil {
		l.t.Fatalf("%s of %s: %v", kind, id, err)
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Hour)
	defer cancel()
	var last operation.Operation
	if err := l.ops.Watch(ctx, op.ID, func(op operation.Operation) error { last = op; return nil }); err != nil {
		l.t.Fatalf("wait for %s of %s: %v", kind, id, err)
	}
	return last.Results[0]
}

// on powers a phone on.
func (l *life) on(id string) {
	l.t.Helper()
	if r := l.do(operation.PowerOn, id, nil); r.State != operation.Succeeded {
		l.t.Fatalf("power on %s: %+v", id, r.Failure)
	}
	l.still()
}

// still lets time pass until what has been told is done.
func (l *life) still() {
	l.t.Helper()
	time.Sleep(3 * time.Second) // of the bubble: packages are read by then
	synctest.Wait()
}

// put puts a list.
func (l *life) put(name string, mode applist.Mode, entries ...string) List {
	l.t.Helper()
	list, _, err := l.Change(l.t.Context(), name, Edit{Put: &applist.List{Mode: mode, Packages: entries}}, "uid/0")
	if err != nil {
		l.t.Fatal(err)
	}
	return list
}

// assign puts phones on a list.
func (l *life) assign(name string, ids ...string) {
	l.t.Helper()
	errs, _, err := l.Assign(l.t.Context(), name, ids, false, false, "uid/0")
	if err := errors.Join(append(errs, err)...); err != nil {
		l.t.Fatal(err)
	}
}

// state is what became of a phone's list.
func (l *life) state(id string) State {
	l.t.Helper()
	synctest.Wait()
	snap, err := l.sup.Get(id)
	if err != nil {
		l.t.Fatal(err)
	}
	s, _ := l.State(snap)
	return s
}

// judges says what the kernel does with apps of a phone: "install:com.a" for names, "10001" for uids, each with + or -; "none" where it has no
// rules.
func (l *life) judges(id string, questions ...string) string {
	l.t.Helper()
	l.h.k.mu.Lock()
	defer l.h.k.mu.Unlock()
	rules, there := l.h.k.rules[l.h.cgroup(id).ID]
	if !there {
		return "none"
	}
	var answers []string
	for _, q := range questions {
		var deny bool
		if name, ok := strings.CutPrefix(q, "install:"); ok {
			deny = rules.Names.Judge(name)
		} else {
			var uid uint32
			if _, err := fmt.Sscan(q, &uid); err != nil {
				l.t.Fatal(err)
			}
			deny = rules.Apps.Judge(uid) != 0
		}
		answers = append(answers, q+map[bool]string{true: "-", false: "+"}[deny])
	}
	return strings.Join(answers, " ")
}

// want fails the test unless the kernel does that.
func (l *life) want(id, answers string) {
	l.t.Helper()
	synctest.Wait()
	var questions []string
	for word := range strings.FieldsSeq(answers) {
		questions = append(questions, strings.TrimRight(word, "+-"))
	}
	if got := l.judges(id, questions...); got != answers {
		l.t.Errorf("%s: %s, want %s", id, got, answers)
	}
}

// events are those of a kind, as "a=b" words in the order of names, without times.
func (l *life) events(kind event.Kind) []string {
	l.t.Helper()
	synctest.Wait()
	time.Sleep(20 * time.Millisecond) // fake time: lets the journal's writer gather
	synctest.Wait()
	var all []string
	err := l.journal.Watch(l.t.Context(), event.WatchOptions{NoFollow: true}, func(events []event.Event) error {
		for _, e := range events {
			if e.Kind != kind {
				continue
			}
			words := []string{e.PhoneID}
			for _, name := range slices.Sorted(maps.Keys(e.Attributes)) {
				if name != "first" && name != "last" {
					words = append(words, name+"="+e.Attributes[name])
				}
			}
			all = append(all, strings.TrimSpace(strings.Join(words, " ")))
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return all
}
