package phone

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/container"
)

// lists is the AppLists of a test: it knows the lists kids and work, and keeps what it was told beside what the world did by then.
type lists struct {
	w *phonetest.World

	mu   sync.Mutex
	told []string
	fail error
}

func (l *lists) note(what, id string) error {
	l.w.Lock()
	guest := l.w.Bodies[id] != nil && l.w.Bodies[id].Guest.State == container.TaskRunning
	exists := l.w.Bodies[id] != nil
	l.w.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, fmt.Sprintf("%s %s exists=%t guest=%t", what, id, exists, guest))
	return l.fail
}

func (l *lists) Ready(_ context.Context, id string) error  { return l.note("ready", id) }
func (l *lists) Forget(_ context.Context, id string) error { return l.note("forget", id) }

func (l *lists) check(_ *store.Tx, name string) error {
	if name != "kids" && name != "work" {
		return NoSuchAppList(name)
	}
	return nil
}

// runListed runs fn in a bubble of fake time over a host that has lists of apps.
func runListed(t *testing.T, fn func(t *testing.T, a *agent, l *lists)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		w := phonetest.New()
		l := &lists{w: w}
		a := startAgent(t, w, path, func(c *Config) { c.AppLists, c.CheckAppList = l, l.check })
		defer a.stop()
		fn(t, a, l)
	})
}

// listOf is the list that a phone is on.
func (a *agent) listOf(id string) string {
	a.t.Helper()
	snap, err := a.Get(id)
	if err != nil {
		a.t.Fatal(err)
	}
	return snap.Record.Spec.AppList
}

func TestSetAppLists(t *testing.T) {
	runListed(t, func(t *testing.T, a *agent, _ *lists) {
		for _, id := range []string{"p1", "p2", "p3"} {
			a.create(id)
		}
		set := func(name string, move bool, ids ...string) string {
			errs, err := a.SetAppLists(ids, name, move, "uid/0")
			if err != nil {
				return fault.Reason(err)
			}
			var reasons []string
			for _, err := range errs {
				reasons = append(reasons, fault.Reason(err))
			}
			return strings.Join(reasons, " ")
		}
		for i, step := range []struct {
			name string
			move bool
			ids  []string
			want string
			then string // the lists of p1 and p2
		}{
			{"none", false, []string{"p1"}, fault.NoSuchAppList, " "},
			{"kids", false, []string{"p1"}, "", "kids "},
			{"work", false, []string{"p1", "p2", "nobody"}, fault.AppListTaken + "  " + fault.NoSuchPhone, "kids work"},
			{"kids", false, []string{"p1", "p2"}, " " + fault.AppListTaken, "kids work"},
			{"work", true, []string{"p1", "p2"}, " ", "work work"},
			{"", false, []string{"p1", "p3"}, " ", " work"},
			{"", false, nil, fault.InvalidField, " work"},
		} {
			if got := set(step.name, step.move, step.ids...); got != step.want {
				t.Errorf("step %d: %q, want %q", i, got, step.want)
			}
			if got := a.listOf("p1") + " " + a.listOf("p2"); got != step.then {
				t.Errorf("step %d: the phones are on %q, want %q", i, got, step.then)
			}
		}
		errs, _ := a.SetAppLists([]string{"p2"}, "kids", false, "uid/0")
		if got := fault.Meta(errs[0])["app_list"]; got != "work" || !strings.Contains(errs[0].Error(), `"work"`) {
			t.Errorf("the refusal does not name the list: %v", errs[0])
		}
		err := a.db.View(func(tx *store.Tx) error {
			if got := AppListUsers(tx, "work"); !slices.Equal(got, []string{"p2"}) {
				t.Errorf("users of work: %v", got)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestAppListsOfNewPhones(t *testing.T) {
	runListed(t, func(t *testing.T, a *agent, _ *lists) {
		make := func(id, list string) error {
			_, err := a.Create(t.Context(), Spec{ID: id, Image: "testphone", MemoryBytes: 256 << 20, AppList: list})
			return err
		}
		if err := make("p1", "none"); fault.Reason(err) != fault.NoSuchAppList {
			t.Errorf("a list that is not there: %v", err)
		}
		if err := errors.Join(make("p1", "kids"), make("p1", "kids")); err != nil {
			t.Fatal(err)
		}
		if err := make("p1", "work"); fault.Reason(err) != fault.PhoneExists {
			t.Errorf("another list: %v", err)
		}
		a.do(operation.PowerOn, "p1", operation.Succeeded)
		a.do(operation.PowerOff, "p1", operation.Succeeded)
		if _, _, err := a.Clone(t.Context(), Spec{ID: "p2"}, "p1", "uid/0"); err != nil {
			t.Fatal(err)
		}
		if got := a.listOf("p2"); got != "kids" {
			t.Errorf("the clone is on %q, want the list of what it is a clone of", got)
		}
		patch := &Patch{Spec: Spec{AppList: "work"}, Fields: []string{"app_list"}}
		if _, err := a.Submit(t.Context(), Request{Kind: operation.Update, IDs: []string{"p1"}, Patch: patch}); fault.Meta(err)["field"] != "spec.app_list" {
			t.Errorf("an update of the list: %v", err)
		}
	})
}

// TestListsAreReadyBeforeTheGuest tells whoever keeps the lists before every start of a guest, when there is what the kernel knows it by, and when
// a phone goes.
func TestListsAreReadyBeforeTheGuest(t *testing.T) {
	runListed(t, func(t *testing.T, a *agent, l *lists) {
		a.on("p1")
		a.do(operation.Restart, "p1", operation.Succeeded)
		a.do(operation.Reset, "p1", operation.Succeeded)
		if _, err := a.Submit(t.Context(), Request{Kind: operation.Delete, IDs: []string{"p1"}, Force: true}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		ready := "ready p1 exists=true guest=false"
		want := []string{ready, ready, ready, "forget p1 exists=false guest=false"}
		if !slices.Equal(l.told, want) {
			t.Errorf("told:\n%s\nwant:\n%s", strings.Join(l.told, "\n"), strings.Join(want, "\n"))
		}
	})
}

// TestPhoneThatMustNotRun does not start a phone whose list refuses that, and says why.
func TestPhoneThatMustNotRun(t *testing.T) {
	runListed(t, func(t *testing.T, a *agent, l *lists) {
		l.fail = fault.New(errdefs.ErrFailedPrecondition, "STRICT_NOT_KEPT", "the list kids is strict")
		a.create("p1")
		a.do(operation.PowerOn, "p1", operation.Failed)
		snap, err := a.Get("p1")
		if err != nil || snap.Status != Stopped || snap.Record.LastFailure == nil || snap.Record.LastFailure.Reason != "STRICT_NOT_KEPT" {
			t.Errorf("%v %v %+v", snap.Status, err, snap.Record.LastFailure)
		}
		if slices.Contains(a.w.Calls, "StartGuest") {
			t.Error("its guest was started")
		}
	})
}
